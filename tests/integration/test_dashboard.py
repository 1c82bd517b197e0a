from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Metric

from rakuten_tasks.dashboard.__main__ import main, sparkline
from rakuten_tasks.dashboard.queries import next_runs
from rakuten_tasks.monitoring.decision import Accuracy, Decision, Evidence, Outcome
from rakuten_tasks.monitoring.history import DriftCheck, save_check
from rakuten_tasks.registry import runs
from rakuten_tasks.registry.versions import experiment_id
from tests.support.bundles import register, write_bundle
from tests.support.log_files import log_record, write_segment


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path / "var"


def printed(*options: str) -> str:
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0
    return " ".join(done.output.replace("│", " ").split())  # as if no line were broken


def test_a_page_is_shown_before_anything_exists(var, mlflow_store):
    shown = printed("--model", "nobody")
    assert "model nobody has no champion" in shown
    assert "0 records in 0 closed hours" in shown
    assert "next scheduled runs" in shown


def test_every_part_that_exists_is_on_the_page(var, mlflow_store: MlflowClient, tmp_path):
    register(mlflow_store, "shown", write_bundle(tmp_path / "bundle"))
    run = runs.start_parent("shown", {}, {})
    runs.log_to_parent(run).metrics({"pool_weighted_f1": 0.81})
    runs.fail("the disk is full")
    server = mlflow_store.create_run(experiment_id(mlflow_store), tags={"kind": "serving"}).info.run_id
    now = round(time.time() * 1000)
    for minute, requests in enumerate([5, 10, 40]):
        values = {"requests": requests, "errors": 1, "latency_ms_p50": 12, "latency_ms_p95": 48, "mean_confidence": 0.7}
        mlflow_store.log_batch(server, [Metric(name, value, now, minute) for name, value in values.items()])
    evidence = [Evidence("brightness", "photo", "Kolmogorov-Smirnov", 1e-9, 0.3, 0.1, True)]
    for day, outcome, items in ((1, Outcome.NO_DRIFT, []), (2, Outcome.DRIFT, evidence)):
        decision = Decision(outcome, "brightness and so on", 500, 500, ["photo"], items)
        end = f"2026-01-0{day}T06:00:00+00:00"
        save_check(
            str(var / "monitoring/history"),
            DriftCheck("shown", 1, end, end, decision, Accuracy(0.8, None, None, None, 0)),
        )
    write_segment(
        var / "serving/open_hours",
        datetime(2026, 1, 1, 5, tzinfo=UTC),
        [log_record(i, datetime.now(UTC)) for i in range(3)],
    )
    shown = printed("--model", "shown")
    assert "champion" in shown
    assert "FAILED" in shown
    assert "0.8100" in shown
    assert "the disk is full" in shown
    assert "▁█" in shown
    assert "2026-01-02T06:00: drift;" in shown
    assert "55 in total, 3 refused or failed" in shown
    assert "p95 48 ms" in shown
    assert "3 in the open hour" in shown


def test_a_name_that_no_model_can_have_is_refused():
    done = CliRunner().invoke(main, ["--model", "o'k"])
    assert (done.exit_code, done.output.startswith('Error: model "o\'k": the name of a model has up to')) == (1, True)


def test_a_sparkline_is_scaled_to_the_highest_or_to_the_top():
    assert sparkline([0, 1, 2]) == "▁▅█"
    assert sparkline([1], top=2) == "▅"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"


def test_the_next_runs_are_in_order():
    moments = next_runs(datetime(2026, 1, 2, 5, tzinfo=UTC))
    assert list(moments) == ["drift_watch", "nightly_training", "weekly_etl", "smoke"]
    assert moments["drift_watch"] == datetime(2026, 1, 2, 6, 10, tzinfo=UTC)
