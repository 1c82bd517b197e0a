from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.schemas import PredictionSummary
from serving.telemetry import minutes as module
from serving.telemetry.minutes import MinuteMetrics
from serving.telemetry.rejections import MAX_ROWS, RejectionAggregator
from serving.web.middleware import RequestRecord


def request_record(
    status: int = 200, reason: str = "", prediction: PredictionSummary | None = None, number: int = 0
) -> RequestRecord:
    return RequestRecord("/predict", status, 0.25, f"{number:032x}", reason, prediction)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [600.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def written(folder: Path) -> dict[str, dict]:
    return {path.name.partition(".")[0]: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_a_minute_holds_statuses_latency_and_what_was_said(tmp_path, clock):
    minutes = MinuteMetrics(tmp_path)
    minutes.add(request_record(prediction=PredictionSummary(10, 0.5, True)))
    minutes.add(request_record(prediction=PredictionSummary(20, 0.75, False)))
    minutes.add(request_record(503))
    clock[0] = 660
    minutes.add(request_record(422))
    minutes.close()
    first, second = written(tmp_path)["10"], written(tmp_path)["11"]
    assert {name: first[name] for name in ("requests", "errors", "predictions", "abstained", "mean_confidence")} == {
        "requests": 3, "errors": 1, "predictions": 2, "abstained": 1, "mean_confidence": 0.625,
    }  # fmt: skip
    assert (first["status.200"], first["class_share.10"], first["latency_ms_p99"]) == (2, 0.5, 250)
    assert second["requests"] == 1
    assert "predictions" not in second


def test_a_killed_server_loses_of_its_open_minute_only_what_came_since_the_last_draft(tmp_path, clock):
    killed = MinuteMetrics(tmp_path)
    killed.add(request_record(prediction=PredictionSummary(10, 0.5, False)))
    killed.tick()
    killed.add(request_record(503))
    assert written(tmp_path) == {}  # what is not finished is not shipped
    following = MinuteMetrics(tmp_path)
    assert written(tmp_path)["10"]["requests"] == 1
    following.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_refusals_are_one_row_for_each_reason_and_none_is_lost():
    rows: list[dict] = []
    refusals = RejectionAggregator(rows.append)
    for number in range(5000):
        refusals.add(request_record(503, "too many", number=number))
    for number in range(3 * MAX_ROWS):
        refusals.add(request_record(422, f"reason {number}"))
    refusals.flush()
    refusals.flush()
    assert len(rows) == MAX_ROWS + 1
    assert rows[0]["requests"] == 5000
    assert (rows[0]["kind"], rows[0]["status"], rows[0]["reason"]) == ("rejected", 503, "too many")
    assert rows[0]["request_id"] == f"{0:032x}"
    assert sum(row["requests"] for row in rows) == 5000 + 3 * MAX_ROWS
    assert rows[-1]["reason"] == "various"
