from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from click.testing import CliRunner

from rakuten_tasks.config import PhotoConfig, TrainingConfig, Weights
from rakuten_tasks.registry import runs
from rakuten_tasks.registry.__main__ import registry
from rakuten_tasks.training.checkpoint import LocalCheckpointStore
from tests.support.terminated_training import train
from tests.support.training_data import assert_same
from tests.support.training_doubles import MemoryStore


def train_alone(var: str, number: int) -> None:
    """What one of several processes does: everything from the first connection on."""
    os.environ["RAKUTEN_VAR"] = var
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with runs.child_run(runs.start_parent(f"parent {number}", {"number": number}, {}), "child") as log:
        for step in range(5):
            log.metrics({"loss": number + step}, step)


def test_four_processes_may_meet_a_fresh_store_at_once_and_nothing_is_printed(tmp_path, capfd) -> None:
    var = tmp_path / "var"
    draft = var / "mlflow" / "mlflow.db.draft"
    draft.parent.mkdir(parents=True)
    draft.write_text("left over by a creation that was cut short")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["rakuten_tasks.registry.runs"])  # MLflow is imported once, not four times
    workers = [server.Process(target=train_alone, args=(str(var), number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=200)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert capfd.readouterr() == ("", "")
    with sqlite3.connect(var / "mlflow" / "mlflow.db") as store:
        assert store.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert store.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (4,)
        assert store.execute("select count(*) from metrics").fetchone() == (20,)
        assert store.execute("select count(*) from alembic_version").fetchone() == (1,)
        names = store.execute("select name, artifact_location from experiments where name != 'Default'").fetchall()
    assert names == [("rakuten-classifier", (var / "mlflow" / "artifacts").as_uri())]
    assert not draft.exists()


def test_a_training_is_a_parent_run_with_a_child_for_each_task(mlflow_store) -> None:
    config = TrainingConfig(seed=7, photo=PhotoConfig(weights=Weights.RANDOM, image_size=48))
    parent = runs.start_parent("a training", config.to_dict(), {"source": "s" * 9000})
    with runs.child_run(parent, "train_lstm") as log:
        log.metrics({"valid_f1": 0.5, "seconds": 3}, step=1)
        log.metrics({"valid_f1": 0.6, "seconds": 3}, step=2)
    runs.log_to_parent(parent).metrics({"fused_weighted_f1": 0.9})

    run = mlflow_store.get_run(parent)
    assert run.info.status == "RUNNING"
    assert run.data.params["photo.image_size"] == "48"
    assert run.data.params["photo.weights"] == "random"
    assert run.data.params["seed"] == "7"
    assert run.data.metrics == {"fused_weighted_f1": 0.9}
    assert run.data.tags["source"] == "s" * 8000
    child = mlflow_store.get_run(log.run_id)
    assert child.info.run_name == "train_lstm"
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent
    curve = mlflow_store.get_metric_history(log.run_id, "valid_f1")
    assert [(point.step, point.value) for point in curve] == [(1, 0.5), (2, 0.6)]
    runs.finish_parent(parent)
    assert mlflow_store.get_run(parent).info.status == "FINISHED"


def test_a_value_longer_than_mlflow_takes_is_cut(mlflow_store) -> None:
    parent = runs.start_parent("long", {"text": {"note": "x" * 7000}}, {})
    assert mlflow_store.get_run(parent).data.params == {"text.note": "x" * 6000}


def test_a_task_that_fails_is_marked_so_with_its_error_and_raises_it(mlflow_store) -> None:
    parent = runs.start_parent("a training", {}, {})
    with pytest.raises(ValueError, match="no photos"), runs.child_run(parent, "photos") as log:
        raise ValueError("no photos in /data")
    child = mlflow_store.get_run(log.run_id)
    assert child.info.status == "FAILED"
    assert child.data.tags["error"] == "ValueError: no photos in /data"
    assert mlflow_store.get_run(parent).info.status == "RUNNING"  # Flyte may try the task again


def test_a_failed_execution_leaves_its_reason_and_no_run_open(mlflow_store) -> None:
    parent = runs.start_parent("a training", {}, {}, execution="abc1")
    other = runs.start_parent("another", {}, {}, execution="abc2")
    with pytest.raises(ValueError, match="no photos"), runs.child_run(parent, "photos"):
        raise ValueError("no photos in /data")
    lost = mlflow_store.create_run("1", run_name="train_lstm", tags={"mlflow.parentRunId": parent}).info.run_id
    assert runs.fail("the pod was lost", "abc1") == [parent]
    run = mlflow_store.get_run(parent)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "the pod was lost")
    assert mlflow_store.get_run(lost).info.status == "KILLED"
    assert mlflow_store.get_run(other).info.status == "RUNNING"
    assert runs.fail("again", "abc1") == []


def test_a_second_attempt_goes_on_with_the_run_of_the_first(mlflow_store) -> None:
    first = runs.start_parent("a training", {"seed": 1}, {}, execution="abc3")
    assert runs.start_parent("a training", {"seed": 1}, {}, execution="abc3") == first
    runs.finish_parent(first)
    assert runs.start_parent("a training", {"seed": 1}, {}, execution="abc3") != first


def test_a_second_attempt_at_a_task_closes_the_run_of_the_first(mlflow_store) -> None:
    parent = runs.start_parent("a training", {}, {})
    tags = {"mlflow.parentRunId": parent}
    lost, other = (mlflow_store.create_run("1", run_name=name, tags=tags).info.run_id for name in ("fuse", "split"))
    with runs.child_run(parent, "fuse"):
        assert mlflow_store.get_run(lost).info.status == "KILLED"
        assert mlflow_store.get_run(other).info.status == "RUNNING"
    runs.finish_parent(parent)
    assert mlflow_store.get_run(other).info.status == "KILLED"


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "import os; os.kill(os.getpid(), 15)"])
def test_what_is_broken_off_by_ctrl_c_or_sigterm_says_so(mlflow_store, end) -> None:
    script = f"from rakuten_tasks.registry import runs; print(runs.start_parent('a', {{}}, {{}}), flush=True); {end}"
    broken = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert broken.returncode != 0
    run = mlflow_store.get_run(broken.stdout.strip())
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "broken off")


def test_what_a_killed_process_left_open_is_closed_by_the_next_training(mlflow_store) -> None:
    alive = runs.start_parent("of this process", {}, {})
    script = (
        "import os, signal; from rakuten_tasks.registry import runs; print(runs.start_parent('killed', {}, {}), "
        "flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -9
    lost = killed.stdout.strip()
    assert mlflow_store.get_run(lost).info.status == "RUNNING"
    # another process is training: what is alive stays open
    assert mlflow_store.get_run(alive).info.status == "RUNNING"
    runs.start_parent("next", {}, {})
    run = mlflow_store.get_run(lost)
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", "its process was killed")


# of 1 batch that is tried, and then 4 of training and 2 of validation an epoch
@pytest.mark.parametrize(("number", "remaining"), [(8, 10), (12, 8)], ids=["in a step", "in validation"])
def test_sigterm_in_a_pod_writes_a_last_checkpoint_and_ends_the_run_as_killed(
    mlflow_store, tmp_path, number, remaining
):
    execution = f"terminated-{number}"
    parent = runs.start_parent("terminated", {}, {}, execution=execution)
    script = [sys.executable, "-m", "tests.support.terminated_training", str(tmp_path), parent, str(number)]
    pod = subprocess.run(
        script, env={**os.environ, "FLYTE_INTERNAL_EXECUTION_ID": execution}, capture_output=True, text=True
    )
    assert pod.returncode == 128 + 15, pod.stderr
    (child,) = mlflow_store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert (child.info.status, child.data.tags["error"]) == ("KILLED", "broken off")
    assert mlflow_store.get_run(parent).info.status == "RUNNING"  # Flyte starts an interrupted pod again
    weights, batches = train(LocalCheckpointStore(tmp_path))
    assert batches == remaining
    assert_same(weights, train(MemoryStore())[0])


def test_trainings_of_flyte_that_no_failure_node_has_closed_are_closed_by_the_next_one_and_by_prune(mlflow_store):
    def opened(execution: str, age: timedelta) -> str:
        start = int((time.time() - age.total_seconds()) * 1000)
        return mlflow_store.create_run("1", start, {runs.EXECUTION: execution}, "aborted").info.run_id

    recent = opened("recent", runs.SILENCE - timedelta(hours=1))
    lost = opened("lost", runs.SILENCE + timedelta(hours=1))
    start = mlflow_store.get_run(lost).info.start_time
    child = mlflow_store.create_run("1", start, {"mlflow.parentRunId": lost}).info.run_id
    runs.start_parent("next", {}, {}, execution="next")
    run = mlflow_store.get_run(lost)
    assert run.info.status == "KILLED"
    assert run.data.tags["error"].startswith("its Flyte execution ended without a failure node")
    assert mlflow_store.get_run(child).info.status == "KILLED"
    lost = opened("lost too", runs.SILENCE + timedelta(hours=1))
    busy = opened("busy", 2 * runs.SILENCE)
    mlflow_store.create_run("1", int((time.time() - 3600) * 1000), {"mlflow.parentRunId": busy})
    pruned = CliRunner().invoke(registry, ["prune", "--model", "no-such-model"])
    assert "closed 1 trainings of lost executions" in pruned.output
    assert mlflow_store.get_run(lost).info.status == "KILLED"
    assert {mlflow_store.get_run(run_id).info.status for run_id in (recent, busy)} == {"RUNNING"}


def test_a_training_that_was_taken_for_lost_is_open_again_once_a_pod_of_it_starts(mlflow_store, monkeypatch):
    start = int((time.time() - 2 * runs.SILENCE.total_seconds()) * 1000)
    waited = mlflow_store.create_run("1", start, {runs.EXECUTION: "waited"}).info.run_id
    assert runs.close_orphans(mlflow_store) == 1
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "waited")
    with runs.child_run(waited, "fit_bag"):
        assert mlflow_store.get_run(waited).info.status == "RUNNING"
    runs.finish_parent(waited)
    run = mlflow_store.get_run(waited)
    assert (run.info.status, runs.ERROR in run.data.tags) == ("FINISHED", False)


def test_a_recovered_execution_goes_on_with_the_training_of_the_one_that_failed(mlflow_store, monkeypatch):
    parent = runs.start_parent("a training", {}, {}, execution="first")
    assert runs.fail("the database of Flyte was away", "first") == [parent]
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "recovered")
    with pytest.raises(ValueError, match="no photos"), runs.child_run(parent, "photos"):
        raise ValueError("no photos")
    assert mlflow_store.get_run(parent).info.status == "RUNNING"
    assert runs.fail("the pod was killed", "recovered") == [parent]
    run = mlflow_store.get_run(parent)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "the pod was killed")
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "recovered again")
    runs.log_to_parent(parent).metrics({"pool_weighted_f1": 0.8})
    runs.finish_parent(parent)
    run = mlflow_store.get_run(parent)
    assert (run.info.status, run.data.tags[runs.EXECUTION]) == ("FINISHED", "recovered again")
    assert runs.ERROR not in run.data.tags
