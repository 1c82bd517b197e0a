from __future__ import annotations

import dataclasses
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from mlflow import MlflowClient

from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.models.bundle import MANIFEST, REFERENCE, TITLE_SPLITS
from rakuten_tasks.monitoring.columns import SCHEMA
from rakuten_tasks.monitoring.decision import Accuracy, Decision, DriftReport, Outcome
from rakuten_tasks.monitoring.history import DriftCheck, load_checks
from rakuten_tasks.monitoring.policy import Action, decide_action
from rakuten_tasks.monitoring.window import TimeWindow
from rakuten_tasks.registry import runs, versions
from rakuten_tasks.tasks.check_drift import DRIFT, MonitoringPaths, check_drift, window_span
from tests.support.as_pod import start
from tests.support.bundles import write_bundle
from tests.support.catalogues import TINY, write_catalogue
from tests.support.drift_rows import drift_rows
from tests.support.task_names import task_function
from workflows.drift_watch import watch_drift

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SIX = timedelta(hours=6)
REST = timedelta(hours=72)
FOUND = Decision(Outcome.DRIFT, "drift", 500, 500, ["photo"])
QUIET = Decision(Outcome.NO_DRIFT, "none", 500, 500)
FEW = Decision(Outcome.NOT_ENOUGH_DATA, "few", 500, 5)


def span(back: int = 0) -> TimeWindow:
    return TimeWindow(NOON - (back + 1) * SIX, NOON - back * SIX)


def look(
    back: int, decision: Decision = FOUND, action: Action = Action.WAIT, version: int = 1, catalogue: str = ""
) -> DriftCheck:
    start, end = (moment.isoformat(timespec="seconds") for moment in (span(back).start, span(back).end))
    return DriftCheck(
        "m", version, start, end, decision, Accuracy(None, None, None, None, 0), action.value, catalogue=catalogue
    )


def action(decision: Decision, *before: DriftCheck, catalogues: tuple[str, str] = ("new", "old")) -> Action:
    return decide_action(decision, span(), before, 1, catalogues, REST)


def test_two_drifting_windows_in_a_row_train_again():
    assert action(FOUND) is Action.WAIT
    assert action(FOUND, look(1)) is Action.RETRAIN


@pytest.mark.parametrize("between", [QUIET, FEW])
def test_a_window_without_drift_breaks_the_row(between):
    assert action(between, look(1)) is Action.NOTHING
    assert action(FOUND, look(2), look(1, between, Action.NOTHING)) is Action.WAIT


def test_a_window_that_overlaps_is_not_a_second_one():
    overlapping = dataclasses.replace(look(1), end=(NOON - timedelta(hours=1)).isoformat())
    assert action(FOUND, overlapping) is Action.WAIT
    assert action(FOUND, look(0)) is Action.WAIT  # the same window, looked at again


def test_drift_seen_by_another_version_does_not_count():
    assert action(FOUND, look(1, version=7)) is Action.WAIT


def test_without_new_labels_there_is_an_alert_and_no_training():
    assert action(FOUND, look(1), catalogues=("old", "old")) is Action.CALL_FOR_LABELS
    assert action(FOUND, look(1), catalogues=("new", "")) is Action.CALL_FOR_LABELS
    refused = look(30, action=Action.RETRAIN, catalogue="new")
    assert action(FOUND, refused, look(1)) is Action.CALL_FOR_LABELS


def test_after_a_training_there_is_a_rest():
    assert action(FOUND, look(3, action=Action.RETRAIN), look(1)) is Action.COOL_DOWN
    assert action(FOUND, look(20, action=Action.RETRAIN), look(1)) is Action.RETRAIN


def test_the_window_ends_at_the_kickoff_or_where_only_closed_hours_are_read_at_the_full_hour():
    kickoff = datetime(2026, 1, 2, 6, 10)
    assert window_span(kickoff, 6, False) == TimeWindow(
        datetime(2026, 1, 2, 0, tzinfo=UTC), datetime(2026, 1, 2, 6, tzinfo=UTC)
    )
    assert window_span(kickoff.replace(tzinfo=UTC), 6, True).end == kickoff.replace(tzinfo=UTC)


def serve(folder: Path, window: pd.DataFrame, end: datetime, model: str, version: int) -> None:
    """The window as the log of its last hour."""
    hour = end - timedelta(hours=1)
    columns = {name: window[name] for name in window.columns if name in SCHEMA.names and name != "designation"}
    table = pd.DataFrame(columns).assign(
        time=hour + timedelta(minutes=5), kind="prediction", request_id=[f"{i:032x}" for i in range(len(window))],
        model=model, version=str(version),
    )  # fmt: skip
    for name in ("designation_length", "designation_words", "photo_bytes"):
        table[name] = (table[name] * 100).round()
    path = folder / f"{hour:%Y-%m-%d}" / f"{hour:%H}.worker.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)


def reference_bundle(folder: Path, run_id: str) -> Path:
    write_bundle(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["lineage"]["run_id"] = run_id
    (folder / MANIFEST).write_text(json.dumps(manifest))
    reference = drift_rows(seed=1)
    for name in ("designation_length", "designation_words", "photo_bytes"):
        reference[name] = (reference[name] * 100).round()
    reference.to_parquet(folder / REFERENCE, index=False)
    TitleSplits.empty().save(folder / TITLE_SPLITS)
    return folder


@pytest.mark.slow
def test_traffic_that_drifts_for_two_windows_is_trained_on_once_there_are_new_labels(
    tmp_path: Path, mlflow_store: MlflowClient, local_runs: Path
):
    """As the schedule would run it: quiet, drift, drift without labels, drift with labels."""
    model, source = "watched", write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=3)
    run_id = mlflow_store.create_run(versions.experiment_id(mlflow_store)).info.run_id
    mlflow_store.set_tag(run_id, runs.FINGERPRINT, fingerprint(str(source)).content)
    version = versions.register(mlflow_store, model, reference_bundle(tmp_path / "bundle", run_id), run_id, {})
    versions.promote(mlflow_store, model, version, "tests", "a test")
    paths = MonitoringPaths(str(tmp_path / "log"), str(tmp_path / "history"), str(tmp_path / "reports"))

    def watched(number: int, window: pd.DataFrame) -> DriftCheck:
        kickoff = NOON + number * SIX
        serve(tmp_path / "log", window, kickoff, model, version)
        return watch_drift(kickoff=kickoff, paths=paths, source=str(source), config=TINY, model=model)

    def dark(seed: int) -> pd.DataFrame:
        return drift_rows(seed=seed).assign(brightness=lambda frame: frame["brightness"] - 1)

    quiet = watched(0, drift_rows(seed=2))
    assert (quiet.decision.outcome, quiet.action) == (Outcome.NO_DRIFT, Action.NOTHING.value)
    first = watched(1, dark(3))
    assert (first.decision.groups, first.action) == (["photo"], Action.WAIT.value)
    second = watched(2, dark(4))
    assert second.action == Action.CALL_FOR_LABELS.value
    assert "ALERT" in mlflow_store.get_model_version(model, str(version)).tags[DRIFT]
    assert versions.latest_version(mlflow_store, model) == version

    labels = source / "Y_train_CVw08PX.csv"
    labels.write_text(labels.read_text().replace("44,2583", "44,10"))
    third = watched(3, dark(5))
    assert third.action == Action.RETRAIN.value
    assert versions.latest_version(mlflow_store, model) == version + 1
    # the bundle of this test knows other classes than the catalogue, and such are never promoted by themselves
    assert third.outcome.startswith(f"version {version + 1}, challenger: ")
    assert [found.action for found in load_checks(paths.history, model)] == [
        look.action for look in (quiet, first, second, third)
    ]
    assert load_checks(paths.history, model)[-1].outcome == third.outcome
    report = DriftReport.from_json((tmp_path / "reports/20260102T120000/drift_report.json").read_text())
    assert report.decision == quiet.decision
    sandbox = Path(FlyteContextManager.current_context().file_access.local_sandbox_dir)
    shown = [path for path in sandbox.glob("*/deck.html") if "<h1>Drift</h1>" in path.read_text(encoding="utf-8")]
    assert shown
    assert all(path.stat().st_size < 2_000_000 for path in shown)


@pytest.mark.slow
def test_the_check_runs_in_a_pod_and_its_outputs_have_their_types(
    tmp_path: Path, mlflow_store: MlflowClient, bucket: str
):
    model = "watched-in-a-pod"
    run_id = mlflow_store.create_run(versions.experiment_id(mlflow_store)).info.run_id
    version = versions.register(mlflow_store, model, reference_bundle(tmp_path / "bundle", run_id), run_id, {})
    versions.promote(mlflow_store, model, version, "tests", "a test")
    serve(tmp_path / "log", drift_rows(seed=2), NOON, model, version)
    fsspec.filesystem("s3").put(str(tmp_path / "log"), f"{bucket}/log", recursive=True)
    paths = MonitoringPaths(f"{bucket}/log", f"{bucket}/history", f"{bucket}/reports")
    inputs = {"kickoff": NOON, "hours": 6.0, "paths": paths, "source": "sample", "model": model, "rest_hours": 72.0}
    told = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "MLFLOW_"))}
    attempt = start(check_drift, inputs, tmp_path / "pod", **told)
    context = FlyteContextManager.current_context()
    outputs = attempt.outputs().literals
    look = TypeEngine.to_python_value(context, outputs["check"], DriftCheck)
    assert look == load_checks(paths.history, model)[0]
    assert (look.decision.outcome, look.action) == (Outcome.NO_DRIFT, Action.NOTHING.value)
    assert TypeEngine.to_python_value(context, outputs["retrain"], bool) is False
    deck = (tmp_path / "pod/outputs/deck.html").read_text(encoding="utf-8")
    assert "<h1>Drift</h1>" in deck
    assert f"{paths.reports}/20260102T120000/drift_report.html" in deck


def test_in_a_pod_no_path_is_on_the_pods_own_disk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "pod")
    store = {"log": "s3://a/log", "history": "s3://a/history", "reports": "s3://a/reports"}
    for name in ("log", "history", "reports", "open_hours"):
        paths = MonitoringPaths(**{**store, name: "here"})
        with pytest.raises(ValueError, match=f"paths.{name}='here': pods share no machine, only an object store"):
            task_function(check_drift)(NOON, 6.0, paths, "sample", "", 72.0)
