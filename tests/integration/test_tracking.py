from __future__ import annotations

import subprocess
from pathlib import Path

import plotly.graph_objects as go
from mlflow import MlflowClient

from rakuten_tasks.registry import runs, tracking


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
