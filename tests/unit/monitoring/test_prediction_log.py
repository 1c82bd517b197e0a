from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rakuten_tasks.monitoring import prediction_log
from rakuten_tasks.monitoring.columns import FEEDBACK, REJECTED, SCHEMA
from rakuten_tasks.monitoring.prediction_log import LogSegment, compact_segments, expire
from serving.telemetry import log_writer as recording
from serving.telemetry.log_writer import PredictionLogWriter
from tests.support.log_files import log_record, write_segment
from tests.support.servers import accuracy, predictions, read_log

HOUR = timedelta(hours=1)


def test_what_is_appended_is_read_back_from_the_open_hour(tmp_path):
    log = LogSegment(tmp_path / "open", "worker")
    now = datetime.now(UTC)
    log.append([log_record(1, now, predicted=2583, top_codes=[2583, 10], embedding_00=0.5, unknown="dropped")])
    rows = read_log(str(tmp_path / "log"), tmp_path / "open")  # not closed, as after SIGKILL
    assert rows.columns.tolist() == SCHEMA.names
    assert rows.loc[0, "predicted"] == 2583
    assert rows.loc[0, "top_codes"].tolist() == [2583, 10]
    assert rows.loc[0, "time"] == now
    log.close()


@pytest.mark.parametrize("line", ['{"time": "2026-01-01T00', '{"time": 5}x\n{"a":1}\n', '"text"\n', "\x00\x00"])
def test_a_file_with_an_incomplete_line_is_read_up_to_that_line(tmp_path, line, caplog):
    hour = datetime(2026, 1, 1, 5, tzinfo=UTC)
    path = write_segment(tmp_path / "open", hour, [log_record(i, hour) for i in range(3)])
    path.write_text(path.read_text() + line)
    with caplog.at_level(logging.WARNING):
        assert len(read_log(str(tmp_path / "log"), tmp_path / "open")) == 3
    assert "has an incomplete line: read up to that line" in caplog.text


def test_closed_hours_become_parquet_and_the_open_one_stays(tmp_path):
    now = datetime(2026, 1, 1, 7, 10, tzinfo=UTC)
    open_folder, address = tmp_path / "open", str(tmp_path / "log")
    write_segment(open_folder, now - HOUR, [log_record(1, now - HOUR)], "worker")
    write_segment(open_folder, now - HOUR, [log_record(2, now - HOUR, REJECTED, status=422)], "requests")
    write_segment(open_folder, now, [log_record(3, now)], "worker")
    written = compact_segments(open_folder, address, now)
    assert [Path(path).relative_to(address).as_posix() for path in written] == [
        "2026-01-01/06.requests.parquet",
        "2026-01-01/06.worker.parquet",
    ]
    assert len(list(open_folder.iterdir())) == 1
    assert read_log(address)["request_id"].str[-1].tolist() == ["2", "1"]
    assert len(read_log(address, open_folder)) == 3
    assert compact_segments(open_folder, address, now) == []


def test_a_closed_hour_is_written_a_row_group_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "BATCH", 2000)
    hour = datetime(2026, 1, 1, 5, tzinfo=UTC)
    write_segment(tmp_path / "open", hour, [log_record(i, hour) for i in range(4500)])
    (written,) = compact_segments(tmp_path / "open", str(tmp_path / "log"), hour + 2 * HOUR)
    file = pq.ParquetFile(written)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2000, 2000, 500]
    assert [int(request, 16) for request in file.read()["request_id"].to_pylist()] == list(range(4500))


def test_an_hour_whose_open_file_could_not_be_removed_counts_once(tmp_path):
    now = datetime(2026, 1, 1, 7, 10, tzinfo=UTC)
    open_folder, address = tmp_path / "open", str(tmp_path / "log")
    path = write_segment(open_folder, now - HOUR, [log_record(1, now - HOUR)])
    kept = path.read_text()
    compact_segments(open_folder, address, now)
    path.write_text(kept)
    assert len(read_log(address, open_folder)) == 1


def test_only_the_requested_time_is_read(tmp_path):
    now = datetime(2026, 1, 2, 1, tzinfo=UTC)
    open_folder, address = tmp_path / "open", str(tmp_path / "log")
    for i in range(1, 6):
        write_segment(open_folder, now - i * HOUR, [log_record(i, now - i * HOUR)])
    compact_segments(open_folder, address, now)
    rows = read_log(address, since=now - 4 * HOUR, until=now - 2 * HOUR)
    assert rows["request_id"].str[-1].tolist() == ["4", "3"]


def test_old_hours_are_removed(tmp_path):
    now = datetime(2026, 3, 1, tzinfo=UTC)
    address = str(tmp_path / "log")
    for days in (1, 20, 40):
        write_segment(tmp_path / "open", now - timedelta(days=days), [log_record(days, now - timedelta(days=days))])
    compact_segments(tmp_path / "open", address, now)
    assert len(expire(address, timedelta(days=30), now)) == 1
    assert len(read_log(address)) == 2


def test_closed_hours_may_lie_on_s3(tmp_path, bucket):
    now = datetime(2026, 1, 1, 7, 10, tzinfo=UTC)
    write_segment(tmp_path, now - HOUR, [log_record(1, now - HOUR)])
    compact_segments(tmp_path, f"{bucket}/log", now)
    assert len(read_log(f"{bucket}/log")) == 1
    assert len(expire(f"{bucket}/log", timedelta(days=1), now + timedelta(days=3))) == 1
    assert len(read_log(f"{bucket}/log")) == 0


def test_feedback_joins_predictions_and_the_last_one_counts(tmp_path):
    now = datetime(2026, 1, 1, 7, tzinfo=UTC)
    rows = [log_record(i, now, predicted=10) for i in range(4)]
    rows += [log_record(0, now, FEEDBACK, true_code=10), log_record(1, now, FEEDBACK, true_code=10)]
    rows += [log_record(1, now + HOUR / 2, FEEDBACK, true_code=50), log_record(9, now, FEEDBACK, true_code=10)]
    write_segment(tmp_path, now, rows)
    answered = predictions(read_log(str(tmp_path / "log"), tmp_path))
    assert answered.set_index("request_id")["true_code"].dropna().tolist() == [10, 50]
    assert accuracy(answered) == 0.5
    assert accuracy(answered.iloc[2:]) is None


def test_the_writer_appends_all_rows_and_survives_one_that_cannot_be_built(tmp_path, caplog):
    writer = PredictionLogWriter(tmp_path / "open", "worker")
    writer.start()
    now = datetime.now(UTC)
    for i in range(100):
        writer.add(log_record(i, now) if i % 2 else lambda i=i: log_record(i, now))
    writer.add(lambda: 1 / 0)  # type: ignore[arg-type]
    writer.close()
    assert len(read_log(str(tmp_path / "log"), tmp_path / "open")) == 100
    assert "a row of the prediction log could not be built" in caplog.text


@pytest.mark.parametrize("moment", range(12))
def test_an_hour_that_closes_while_it_is_read_counts_once_whenever_it_closes(tmp_path, monkeypatch, moment):
    now = datetime(2026, 1, 1, 7, 10, tzinfo=UTC)
    open_folder, address = tmp_path / "open", str(tmp_path / "log")
    for i in (4, 3):
        write_segment(open_folder, now - i * HOUR, [log_record(i, now - i * HOUR)])
    compact_segments(open_folder, address, now)
    for i in (2, 1):
        write_segment(open_folder, now - i * HOUR, [log_record(i, now - i * HOUR)])
    write_segment(open_folder, now, [log_record(0, now)])
    steps = 0
    closed_at = []

    def close_then(function):
        def step(*arguments):
            nonlocal steps
            if steps == moment:
                steps += 1  # closing takes such steps itself
                closed_at.append(compact_segments(open_folder, address, now))
            steps += 1
            return function(*arguments)

        return step

    for name in ("_open_files", "_closed_files", "_overlaps", "_stored", "_lines"):
        monkeypatch.setattr(prediction_log, name, close_then(getattr(prediction_log, name)))
    assert read_log(address, open_folder)["request_id"].str[-1].tolist() == ["4", "3", "2", "1", "0"]
    assert [len(written) for written in closed_at] == [2]


def test_hours_close_and_are_read_by_two_threads_without_loss(tmp_path):
    now = datetime(2026, 1, 9, tzinfo=UTC)
    open_folder, address = tmp_path / "open", str(tmp_path / "log")
    for i in range(40):
        write_segment(open_folder, now - (i + 1) * HOUR, [log_record(i, now - (i + 1) * HOUR)])

    def close() -> None:
        for i in range(40, 0, -1):
            compact_segments(open_folder, address, now - (i - 1) * HOUR + timedelta(minutes=1))

    closing = threading.Thread(target=close)
    closing.start()
    counts = []
    while closing.is_alive() or not counts:
        counts.append(len(read_log(address, open_folder)))
    closing.join()
    assert set(counts) == {40}
    assert not list(open_folder.iterdir())


def test_photos_that_wait_for_the_log_are_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    writer = PredictionLogWriter(tmp_path / "open", "worker")
    held, most = 0, 0

    def made(i: int) -> dict:
        nonlocal held, most
        most = max(most, held)
        held -= 400
        return log_record(i, datetime.now(UTC))

    writer.start()
    for i in range(20):
        writer.add(lambda i=i: made(i), 400)
        held += 400
    writer.add(log_record(20, datetime.now(UTC)), 5000)  # larger than all that may wait: it waits alone
    writer.close()
    assert most <= 1200  # the two that fit, and the one that was just let in
    assert len(read_log(str(tmp_path / "log"), tmp_path / "open")) == 21
