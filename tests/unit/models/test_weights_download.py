"""Downloads of weights, from servers on this machine: whole or not at all, and no long wait where nothing answers."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rakuten_tasks.config import PhotoConfig, Precision, Weights
from rakuten_tasks.models import downloads, model_folder
from rakuten_tasks.models.backbones import resolve_weights
from rakuten_tasks.models.downloads import download, hub_file
from rakuten_tasks.models.networks import vgg16_weights
from rakuten_tasks.models.networks.vgg16_weights import empty_convolutions

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of an empty torch hub's cache. No proxy stands between the tests and their servers."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "hub" / "checkpoints"


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """The address of a server that answers every GET so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        thread = threading.Thread(target=there.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{there.server_port}"
        finally:
            there.shutdown()
            thread.join()


def sends(content: bytes, promised: int | None = None, pauses: int = 0) -> Answer:
    """promised: what Content-Length says. pauses: of a tenth of a second, spread over the content."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content) if promised is None else promised))
        request.end_headers()
        step = -(-len(content) // (pauses + 1))
        for start in range(0, len(content), step):
            time.sleep(0.1 if start else 0)
            request.wfile.write(content[start : start + step])

    return answer


def named(sha256: str = SHA256) -> str:
    """As torchvision names its files."""
    return f"net-{sha256[:8]}.pth"


def test_a_whole_file_is_in_the_cache_folder_and_asked_for_once(checkpoints: Path) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        sends(CONTENT)(request)

    with server(answer) as address:
        for _ in range(2):
            path = hub_file(f"{address}/{named()}")
    assert path == checkpoints / named()
    assert path.read_bytes() == CONTENT
    assert asked == [f"/{named()}"]
    assert [p.name for p in checkpoints.iterdir()] == [named()]


def test_a_slow_server_is_waited_for_as_long_as_bytes_come(
    monkeypatch: pytest.MonkeyPatch, checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downloads, "ANSWER", 0.5)
    caplog.set_level(logging.INFO)
    with server(sends(CONTENT, pauses=8)) as address:  # 0.8 s, longer than an answer may take to begin
        hub_file(f"{address}/{named()}")
    assert (checkpoints / named()).read_bytes() == CONTENT
    assert "1.05M of 1.05MB" in caplog.text  # the progress


def test_a_cut_download_is_an_error_and_leaves_no_file(checkpoints: Path) -> None:
    with server(sends(CONTENT, promised=2 * len(CONTENT))) as address, pytest.raises(FileNotFoundError) as error:
        hub_file(f"{address}/{named()}")
    assert "1048576 bytes read, 1048576 more expected" in str(error.value)
    assert list(checkpoints.iterdir()) == []


def test_other_bits_than_the_name_promises_are_an_error_and_leave_no_file(checkpoints: Path) -> None:
    with server(sends(b"<html>please log in</html>")) as address, pytest.raises(FileNotFoundError) as error:
        hub_file(f"{address}/{named()}")
    assert f"not {SHA256[:8]}" in str(error.value)
    assert list(checkpoints.iterdir()) == []


def test_an_address_that_is_not_there_is_said_and_leaves_no_file(checkpoints: Path) -> None:
    with server(lambda request: request.send_error(404)) as address, pytest.raises(FileNotFoundError, match="404"):
        hub_file(f"{address}/{named()}")
    assert list(checkpoints.iterdir()) == []


def test_two_at_once_both_end_with_the_whole_file(checkpoints: Path) -> None:
    with server(sends(CONTENT, pauses=3)) as address, ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(hub_file, [f"{address}/{named()}"] * 2))
    assert paths == [checkpoints / named()] * 2
    assert paths[0].read_bytes() == CONTENT
    assert [p.name for p in checkpoints.iterdir()] == [named()]


def test_a_file_that_is_there_stays_when_its_download_fails(tmp_path: Path) -> None:
    path = tmp_path / named()
    path.write_bytes(b"before")
    with server(sends(CONTENT, promised=len(CONTENT) + 1)) as address, pytest.raises(OSError, match="1 more"):
        download(f"{address}/{named()}", path, SHA256[:8])
    assert path.read_bytes() == b"before"


def test_a_folder_that_cannot_be_written_to_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="Not a directory"):
        hub_file(f"http://127.0.0.1:9/{named()}")


def closed_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]


def published(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(vgg16_weights, "imagenet_weights", lambda: SimpleNamespace(url=url, meta={}))


def test_auto_falls_back_at_once_where_the_connection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, f"http://127.0.0.1:{closed_port()}/{named()}")
    start = time.monotonic()
    config, weights = resolve_weights(PhotoConfig())
    assert time.monotonic() - start < 3
    assert config.weights is Weights.RANDOM
    assert "Connection refused" in weights.warning


@pytest.mark.parametrize("frozen", [{"precision": Precision.INT8}, {"fine_tune_epochs": 2}])
def test_auto_falls_back_also_from_what_only_pretrained_weights_can_do(monkeypatch: pytest.MonkeyPatch, frozen) -> None:
    published(monkeypatch, f"http://127.0.0.1:{closed_port()}/{named()}")
    config, _ = resolve_weights(PhotoConfig(**frozen))
    assert config == PhotoConfig(weights=Weights.RANDOM, image_size=config.image_size)


def test_auto_falls_back_within_ten_seconds_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloads.ANSWER < 10
    monkeypatch.setattr(downloads, "ANSWER", 0.3)
    over = threading.Event()
    with server(lambda _: over.wait(10) and None) as address:  # type: ignore[arg-type]
        published(monkeypatch, f"{address}/{named()}")
        start = time.monotonic()
        config, weights = resolve_weights(PhotoConfig())
        took = time.monotonic() - start
        over.set()
    assert took < 2
    assert config.weights is Weights.RANDOM
    assert "no answer within 0.3 seconds" in weights.warning


def test_auto_falls_back_within_ten_seconds_where_a_name_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that is cut off takes half a minute to say so, whatever timeout the request has."""
    monkeypatch.setattr(downloads, "ANSWER", 0.3)
    over = threading.Event()

    def cut_off(*args: object, **kwargs: object) -> list[object]:
        over.wait(10)
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", cut_off)
    published(monkeypatch, f"http://weights.invalid/{named()}")
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"no answer within 0\.3 seconds"):
        resolve_weights(PhotoConfig(weights=Weights.IMAGENET))
    assert time.monotonic() - start < 2
    over.set()


def test_auto_downloads_imagenet_where_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoints: Path
) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save({f"features.{name}": tensor for name, tensor in empty_convolutions(False).state_dict().items()}, path)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    with server(sends(content)) as address:
        published(monkeypatch, f"{address}/{named(sha256)}")
        config, weights = resolve_weights(PhotoConfig(fine_tune_epochs=2))
    assert config == PhotoConfig(weights=Weights.IMAGENET, image_size=224, fine_tune_epochs=2)
    assert (weights.source, weights.sha256, weights.warning) == (f"{address}/{named(sha256)}", sha256, "")
    assert weights.licence == "BSD-3-Clause (torchvision), ImageNet terms"
    assert (checkpoints / named(sha256)).read_bytes() == content


COMMIT, HUB = "0123456789abcdef0123456789abcdef01234567", "hf:somebody/some-model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of an empty hub's cache; the hub itself does not answer."""
    import huggingface_hub.constants

    over = threading.Event()
    monkeypatch.setattr(model_folder, "ANSWER", 0.3)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: over.wait(10))
    yield tmp_path
    over.set()


def fill(cache: Path) -> Path:
    """As the hub's client keeps what it fetched: a small vision transformer, which `main` stood for then."""
    from transformers import ViTConfig, ViTModel

    model = cache / "models--somebody--some-model"
    folder = model / "snapshots" / COMMIT
    shape: dict = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **shape)).save_pretrained(folder)
    said = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_hub_that_does_not_answer_is_decided_on_within_ten_seconds(hub: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"be downloaded from the hub \(no answer within 0\.3 seconds\): correct"
    ):
        resolve_weights(PhotoConfig(HUB))
    assert time.monotonic() - start < 5


def test_a_commit_that_is_cached_is_not_asked_for(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(hub)
    monkeypatch.setattr(model_folder, "within", lambda *args: pytest.fail("the hub was asked"))
    config, weights = resolve_weights(PhotoConfig(HUB, revision=COMMIT))
    assert config == PhotoConfig(HUB, revision=COMMIT, image_size=32)
    assert weights.source == f"hf:somebody/some-model@{COMMIT}"
    assert weights.licence == "unknown"


def test_without_a_hub_its_cache_answers_and_the_commit_is_told(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(hub)
    assert resolve_weights(PhotoConfig(HUB))[0].revision == COMMIT
    assert f"commit {COMMIT} of its cache" in caplog.text


def test_the_commit_that_a_hub_tells_is_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    fetched = []

    def fetch(name: str, revision: str, local_files_only: bool, **kwargs: object) -> str:
        if local_files_only:
            raise FileNotFoundError("not cached")
        fetched.append((name, revision))
        return str(fill(hub))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: SimpleNamespace(sha=COMMIT))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve_weights(PhotoConfig(HUB, revision="v1"))[0].revision == COMMIT
    assert fetched == [("somebody/some-model", COMMIT)]
