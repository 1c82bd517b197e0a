"""Trainings that are killed, and trainings that meet: in processes of their own, as users start them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from mlflow import MlflowClient

from rakuten_tasks.registry import runs
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from rakuten_tasks.tasks.types import FittedMember
from rakuten_tasks.training.checkpoint import DIGEST
from tests.support.as_pod import Attempt, start
from tests.support.catalogues import TINY, write_catalogue
from tests.support.photo_task import task_inputs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=2)


def write_config(path: Path, **photo: int) -> Path:
    path.write_text(json.dumps({**TINY.to_dict(), "photo": {**TINY.to_dict()["photo"], **photo}}))
    return path


def fresh(var: Path) -> Path:
    """A var/ as on a fresh machine after the installation."""
    var.mkdir()
    (var / "venv").symlink_to(sys.prefix)
    return var


def train(source: Path, config: Path, var: Path) -> subprocess.Popen:
    command = ["make", "train", f"SOURCE={source}", f"CONFIG={config}", f"VAR={var}", "MODEL=endures"]
    environment = {**os.environ, "RAKUTEN_CHECKPOINT_SECONDS": "0"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (var / f"log-{time.time_ns()}").open("w") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def read_logs(var: Path) -> str:
    return "\n".join(log.read_text()[-3000:] for log in sorted(var.glob("log-*")))


def ask(var: Path, question: str) -> list[tuple]:
    with sqlite3.connect(var / "mlflow/mlflow.db") as store:
        return store.execute(question).fetchall()


def weights(var: Path) -> dict[str, bytes]:
    """The networks' files of the only version."""
    files = [*(var / "mlflow/artifacts").rglob("*.safetensors"), *(var / "mlflow/artifacts").rglob("tokenizer.json")]
    found = {path.name: path.read_bytes() for path in files}
    assert {"lstm.safetensors", "vgg16.safetensors", "linear.safetensors", "tokenizer.json"} <= set(found)
    return found


def checkpoints(folder: Path) -> set[tuple[str, int]]:
    """Each whole one in the folder's checkpoints/, as one writing of it."""
    found = set()
    for path in (folder / "checkpoints").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # it is being replaced
            if path.suffix != ".part" and path.is_file():
                found.add((str(path), path.stat().st_mtime_ns))
    return found


def wait_for(count: int, process: subprocess.Popen, folder: Path, seconds: float) -> None:
    """Until the process has written so many checkpoints, or for so long."""
    before, seen = checkpoints(folder), set()
    until = time.monotonic() + seconds
    while len(seen) < count and process.poll() is None and time.monotonic() < until:
        seen |= checkpoints(folder) - before
        time.sleep(0.01)


def test_four_trainings_started_at_once_on_a_fresh_machine_all_finish(source, tmp_path):
    var, config = fresh(tmp_path / "var"), write_config(tmp_path / "config.json", epochs=4)
    processes = [train(source, config, var) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4, read_logs(var)
    assert ask(var, "pragma integrity_check") == [("ok",)]
    assert ask(var, "select distinct status from runs") == [("FINISHED",)]
    assert sorted(ask(var, "select version from model_versions")) == [(1,), (2,), (3,), (4,)]
    aliases = dict(ask(var, "select alias, version from registered_model_aliases"))
    assert {"champion", "best"} <= set(aliases)


def test_a_training_killed_at_random_points_and_started_again_ends_with_the_same_weights(source, tmp_path):
    # two steps an epoch, so that there are checkpoints for every kill to come, however soon the epochs end
    config = write_config(tmp_path / "config.json", epochs=12, batch_size=12)
    calm = fresh(tmp_path / "calm")
    assert train(source, config, calm).wait() == 0, read_logs(calm)

    killed = fresh(tmp_path / "killed")
    dice = random.Random(0)
    for count in (0, 0, 2, 3, 2):
        process = train(source, config, killed)
        wait_for(count, process, killed, 300)
        # and a random moment more, but for the next checkpoint at most: a fast machine would be over before long
        wait_for(1, process, killed, dice.uniform(0, 1) if count else dice.uniform(2, 15))
        assert process.poll() is None, "the training was over before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process = train(source, config, killed)
    while process.poll() is None and not ask(killed, "select version from model_versions"):
        time.sleep(0.005)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of its registration
    process.wait()
    assert train(source, config, killed).wait() == 0, read_logs(killed)
    there = "current_stage != 'Deleted_Internal'"  # MLflow keeps a row of what was deleted
    judged = "select version from model_version_tags where key = 'gate_decision'"
    assert ask(killed, f"select count(*) from model_versions where version not in ({judged}) and {there}") == [(0,)]
    assert weights(killed) == weights(calm)
    assert "continuing from a checkpoint" in "".join(log.read_text() for log in killed.glob("log-*"))
    assert ask(killed, "pragma integrity_check") == [("ok",)]
    assert ask(killed, "select count(*) from runs where status = 'RUNNING'") == [(0,)]
    reasons = ask(killed, "select distinct value from tags where key = 'error'")
    assert reasons == [("its process was killed",)]


@pytest.fixture
def photo_inputs(tmp_path: Path, mlflow_store: MlflowClient) -> dict:
    """What train_network_on_gpus gets: 60 small photos of three classes."""
    run_id = runs.start_parent("pods", {}, {}, execution="pods")
    return task_inputs(tmp_path / "inputs", run_id, epochs=8, train=45, held_out=15)


def photo_weights(attempt: Attempt) -> bytes:
    literal = attempt.outputs().literals["o0"]
    member = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, FittedMember)
    return (Path(member.folder.download()) / "vgg16.safetensors").read_bytes()


def stop_between_writes(attempt: Attempt) -> None:
    """Objects of a store change whole; the folder that stands for it here keeps half of what is being written."""
    for _ in range(200):
        attempt.process.send_signal(signal.SIGSTOP)
        blobs = [path.read_bytes() for path in attempt.checkpoints.rglob("*") if path.is_file()]
        if blobs and all(hashlib.sha256(blob[DIGEST:]).digest() == blob[:DIGEST] for blob in blobs):
            return
        attempt.process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("no whole checkpoint was seen")


def test_a_pod_that_is_killed_is_gone_on_with_by_the_next_and_that_by_the_one_after(photo_inputs, tmp_path):
    settings = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "RAKUTEN_CHECKPOINT_SECONDS": "0"}
    calm = start(train_network_on_gpus, photo_inputs, tmp_path / "calm", **settings)
    expected = photo_weights(calm)

    before: Path | None = None
    for number in range(2):
        attempt = start(train_network_on_gpus, photo_inputs, tmp_path / f"killed{number}", before, **settings)
        wait_for(3, attempt.process, attempt.folder, 120)  # what it was handed is the first of them
        stop_between_writes(attempt)
        attempt.process.kill()
        assert attempt.process.wait() == -signal.SIGKILL
        before = attempt.checkpoints
    last = start(train_network_on_gpus, photo_inputs, tmp_path / "last", before, **settings)
    assert photo_weights(last) == expected
    assert "continuing from a checkpoint" in (last.folder / "log").read_text()
