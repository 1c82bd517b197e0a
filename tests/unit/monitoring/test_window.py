from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from rakuten_tasks.monitoring.columns import FEEDBACK, PREDICTION, REJECTED
from rakuten_tasks.monitoring.decision import Accuracy, Decision, Outcome
from rakuten_tasks.monitoring.history import DriftCheck, load_checks, save_check
from rakuten_tasks.monitoring.prediction_log import compact_segments
from rakuten_tasks.monitoring.window import TimeWindow, read_window
from tests.support.log_files import log_record, write_segment

NOW = datetime(2026, 1, 2, 7, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPAN = TimeWindow(NOW - 6 * HOUR, NOW)


def traffic(folder: Path, hour: datetime, count: int, **more: str | int) -> None:
    records = [
        log_record(i, hour + timedelta(seconds=i), model="m", version="3", predicted=i, **more) for i in range(count)
    ]
    write_segment(folder, hour, records, f"w{len(list(folder.glob('*')) if folder.exists() else [])}")


def test_the_window_holds_the_models_answers_of_the_span_and_nothing_else(tmp_path):
    hours, address = tmp_path / "open", str(tmp_path / "log")
    for hour, more in (
        (NOW - 2 * HOUR, {}),
        (NOW - 2 * HOUR, {"version": "2"}),
        (NOW - 2 * HOUR, {"model": "other"}),
        (NOW - 2 * HOUR, {"kind": REJECTED}),
        (NOW - 9 * HOUR, {}),
        (NOW, {}),
    ):
        number = len(list(hours.glob("*"))) if hours.exists() else 0
        write_segment(
            hours,
            hour,
            [log_record(number, hour, **{"model": "m", "version": "3", "predicted": 5, **more})],
            f"w{number}",
        )
    compact_segments(hours, address, NOW)
    window = read_window(address, SPAN, hours, "m", "3")
    assert window["request_id"].str[-1].tolist() == ["0"]
    assert len(read_window(address, SPAN, hours, "m")) == 2
    assert len(read_window(address, SPAN, hours)) == 3


def test_of_a_larger_log_rows_are_drawn_by_chance_from_the_whole_span(tmp_path):
    for back in (1, 2, 3, 4):
        traffic(tmp_path / "open", NOW - back * HOUR, 1000)
    compact_segments(tmp_path / "open", str(tmp_path / "log"), NOW)
    window = read_window(str(tmp_path / "log"), SPAN, max_rows=400)
    assert len(window) == 400
    assert window["time"].is_monotonic_increasing
    by_hour = window.groupby(window["time"].dt.hour).size()
    assert len(by_hour) == 4
    assert by_hour.min() > 60
    assert 400 < np.mean(window["predicted"]) < 600


def test_labels_that_arrive_after_the_window_count(tmp_path):
    traffic(tmp_path / "open", NOW - HOUR, 3)
    write_segment(tmp_path / "open", NOW + 5 * HOUR, [log_record(1, NOW + 5 * HOUR, FEEDBACK, true_code=7)])
    window = read_window(str(tmp_path / "log"), SPAN, tmp_path / "open")
    assert window["true_code"].dropna().tolist() == [7]
    assert (window["kind"] == PREDICTION).all()


def test_an_empty_or_absent_log_is_an_empty_window(tmp_path):
    window = read_window(str(tmp_path / "absent"), SPAN, tmp_path / "absent")
    assert len(window) == 0
    assert "true_code" in window


def check(end: str, model: str = "m") -> DriftCheck:
    decision = Decision(Outcome.NO_DRIFT, "nothing", 500, 500)
    return DriftCheck(model, 3, "2026-01-01T00:00:00+00:00", end, decision, Accuracy(0.5, None, None, None, 0))


def test_the_history_is_kept_by_model_and_a_window_counts_once(tmp_path, bucket):
    for address in (str(tmp_path / "history"), f"{bucket}/history"):
        assert load_checks(address, "m") == []
        for end in ("2026-01-02T06:00:00+00:00", "2026-01-01T06:00:00+00:00", "2026-01-02T06:00:00+00:00"):
            save_check(address, check(end))
        save_check(address, check("2026-01-02T06:00:00+00:00", "other"))
        assert [item.end[:10] for item in load_checks(address, "m")] == ["2026-01-01", "2026-01-02"]
    assert pd.Timestamp(check("2026-01-02T06:00:00+00:00").end).tzinfo is not None
