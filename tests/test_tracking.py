from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
from pathlib import Path

import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient

from rakuten_tasks.config import PhotoConfig, TrainingConfig, Weights
from rakuten_tasks.registry import tracking


def artifacts(client: MlflowClient, run_id: str) -> dict[str, Path]:
    folder = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


def test_the_store_lies_under_var_unless_an_address_is_given(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAKUTEN_VAR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/var/mlflow/mlflow.db"
    monkeypatch.setenv("RAKUTEN_VAR", "elsewhere")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/elsewhere/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5001")
    assert tracking.tracking_uri() == "http://mlflow:5001"


def train_alone(var: str, number: int) -> None:
    """What one of several processes does: everything from the first connection on."""
    os.environ["RAKUTEN_VAR"] = var
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tracking.child_run(tracking.start_parent(f"parent {number}", {"number": number}, {}), "child") as log:
        for step in range(5):
            log.metrics({"loss": number + step}, step)


def test_four_processes_may_meet_a_fresh_store_at_once_and_nothing_is_printed(tmp_path, capfd) -> None:
    var = tmp_path / "var"
    draft = var / "mlflow" / "mlflow.db.draft"
    draft.parent.mkdir(parents=True)
    draft.write_text("left over by a creation that was cut short")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["rakuten_tasks.registry.tracking"])  # MLflow is imported once, not four times
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
    config = TrainingConfig(seed=7, photo=PhotoConfig(weights=Weights.RANDOM, side=48))
    parent = tracking.start_parent("a training", config.to_dict(), {"source": "s" * 9000})
    with tracking.child_run(parent, "train_lstm") as log:
        log.metrics({"valid_f1": 0.5, "seconds": 3}, step=1)
        log.metrics({"valid_f1": 0.6, "seconds": 3}, step=2)
    tracking.log_to_parent(parent, {"fused_weighted_f1": 0.9})

    run = mlflow_store.get_run(parent)
    assert run.info.status == "RUNNING"
    assert run.data.params["photo.side"] == "48"
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
    tracking.finish_parent(parent)
    assert mlflow_store.get_run(parent).info.status == "FINISHED"


def test_a_value_longer_than_mlflow_takes_is_cut(mlflow_store) -> None:
    parent = tracking.start_parent("long", {"text": {"note": "x" * 7000}}, {})
    assert mlflow_store.get_run(parent).data.params == {"text.note": "x" * 6000}


def test_a_task_that_fails_is_marked_so_with_its_error_and_raises_it(mlflow_store) -> None:
    parent = tracking.start_parent("a training", {}, {})
    with pytest.raises(ValueError, match="no photos"), tracking.child_run(parent, "photos") as log:
        raise ValueError("no photos in /data")
    child = mlflow_store.get_run(log.run_id)
    assert child.info.status == "FAILED"
    assert child.data.tags["error"] == "ValueError: no photos in /data"
    assert mlflow_store.get_run(parent).info.status == "FAILED"


def test_figures_files_folders_and_dictionaries_become_artifacts(mlflow_store, tmp_path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "rows.csv").write_text("a,b")
    (tmp_path / "summary.json").write_text("{}")
    with tracking.child_run(tracking.start_parent("a training", {}, {}), "evaluate") as log:
        log.figure(go.Figure(go.Scatter(x=[1, 2], y=[3, 4])), "curves")
        log.artifact(folder)
        log.artifact(tmp_path / "summary.json")
        log.dictionary({"passed": True}, "verdict.json")
    found = artifacts(mlflow_store, log.run_id)
    assert sorted(found) == ["curves.html", "curves.png", "summary.json", "tables/rows.csv", "verdict.json"]
    assert found["curves.png"].read_bytes().startswith(b"\x89PNG")
    assert "Plotly.newPlot" in found["curves.html"].read_text()
    assert '"passed": true' in found["verdict.json"].read_text()


def test_the_commit_is_the_repositorys_unless_an_image_names_its_own(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert tracking.git_commit().removesuffix("-dirty") == head
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert tracking.git_commit() == "abc"
    monkeypatch.delenv("GIT_COMMIT")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tracking.git_commit() == "unknown"
