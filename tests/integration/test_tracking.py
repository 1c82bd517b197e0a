from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rakuten_tasks.registry import run_log, runs, tracking
from rakuten_tasks.registry.run_log import RunLog


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


def test_figures_files_folders_and_dictionaries_become_artifacts(mlflow_store, tmp_path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "rows.csv").write_text("a,b")
    (tmp_path / "summary.json").write_text("{}")
    with runs.child_run(runs.start_parent("a training", {}, {}), "evaluate") as log:
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


class Outage:
    """Requests of these kinds fail while `away`; `failed` counts them."""

    def __init__(self, patch: pytest.MonkeyPatch, client: MlflowClient, *more: str) -> None:
        self.away, self.failed = False, 0
        for name in ("log_batch", "log_figure", "log_artifact", "log_dict", *more):
            patch.setattr(client, name, functools.partial(self.request, getattr(client, name)))

    def request(self, method: Callable[..., object], *arguments: object, **options: object) -> object:
        if self.away:
            self.failed += 1
            raise MlflowException("API request to http://mlflow:5001 failed: connection refused")
        return method(*arguments, **options)


def log_task(log: RunLog, folder: Path) -> None:
    (folder / "page.html").write_text("<p>")
    log.figure(go.Figure(go.Scatter(x=[1, 2], y=[3, 4])), "curves")
    log.artifact(folder / "page.html")
    log.dictionary({"passed": True}, "decision.json")


def test_what_a_task_logs_while_mlflow_is_away_is_sent_when_the_task_ends(mlflow_store, tmp_path, monkeypatch):
    outage = Outage(monkeypatch, mlflow_store)
    with runs.child_run(runs.start_parent("a training", {}, {}), "train") as log:
        log.metrics({"loss": 3.0}, step=1)
        outage.away = True
        log.metrics({"loss": 2.0}, step=2)
        log_task(log, tmp_path)
        outage.away = False
        log.metrics({"loss": 1.0}, step=3)
    assert outage.failed == 1  # a training waits for it once
    curve = mlflow_store.get_metric_history(log.run_id, "loss")
    assert sorted((point.step, point.value) for point in curve) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert sorted(artifacts(mlflow_store, log.run_id)) == ["curves.html", "curves.png", "decision.json", "page.html"]
    assert mlflow_store.get_run(log.run_id).info.status == "FINISHED"


def test_a_finished_task_does_not_fail_for_its_log(mlflow_store, tmp_path, monkeypatch, caplog):
    parent = runs.start_parent("a training", {}, {})
    outage = Outage(monkeypatch, mlflow_store, "set_terminated")
    monkeypatch.setattr(run_log, "PATIENCE", 0.0)
    with runs.child_run(parent, "train") as log:
        outage.away = True
        log.metrics({"loss": 3.0}, step=1)
        log_task(log, tmp_path)
    assert outage.failed == 2  # the first request, and once more at the end
    outage.away = False
    assert f"MLflow run {log.run_id} lacks a part of its log: API request to" in caplog.text
    runs.finish_parent(parent)
    assert mlflow_store.get_run(log.run_id).info.status == "KILLED"


@pytest.mark.parametrize(("pod", "least", "most"), [("execution", 420, 720), ("", 5, 30)], ids=["pod", "locally"])
def test_a_pod_waits_minutes_for_a_server_that_is_away(monkeypatch, pod, least, most):
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "FLYTE_INTERNAL_EXECUTION_ID"):
        monkeypatch.setenv(name, pod)  # so that both are restored
        monkeypatch.delenv(name)
    if pod:
        monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", pod)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(MlflowException, match="HTTPConnectionPool"):
        tracking.connect()
    assert least < sum(waits) < most
