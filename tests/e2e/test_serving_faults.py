"""The app as it runs: what a long life, a kill, a neighbour and a missing store do to it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from rakuten_tasks.monitoring.prediction_log import compact_segments
from tests.support.bundles import register, write_bundle
from tests.support.catalogues import photo_bytes
from tests.support.servers import Server, base64_photo, memory, predictions, read_log, serving

MODEL = "endures"
ROMAN = {"description": "roman"}


@pytest.fixture(scope="module")
def version(mlflow_store: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> int:
    return register(mlflow_store, MODEL, write_bundle(tmp_path_factory.mktemp("bundle") / "bundle"))


@pytest.fixture(scope="module")
def server(version: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("endures"), MODEL=MODEL) as running:
        yield running


def records(server: Server) -> pd.DataFrame:
    return read_log(str(server.var / "prediction_log"), server.var / "serving" / "open_hours")


def metric(server: Server, name: str) -> float:
    lines = server.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_sigterm_waits_as_long_as_the_time_limit_allows_for_what_is_queued(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_TIME_LIMIT="90") as server:
        worker = server.get("/info").json()["worker_pid"]
        os.kill(worker, signal.SIGSTOP)  # stands for a queue that takes 40 s
        statuses: list[int] = []
        sender = threading.Thread(
            target=lambda: statuses.extend(a.status_code for a in server.at_once([ROMAN] * 40, 40))
        )
        sender.start()
        server.wait_until(lambda: metric(server, "rakuten_waiting") == 40)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(40)
        os.kill(worker, signal.SIGCONT)
        assert server.process.wait(60) == 0
        sender.join()
    assert statuses == [200] * 40
    assert len(predictions(records(server))) == 40


def test_counters_never_fall_and_the_open_minute_outlives_a_killed_worker(mlflow_store, version, tmp_path):
    with serving(tmp_path, MODEL=MODEL) as server:
        server.at_once([ROMAN] * 30)
        server.wait_until(lambda: metric(server, "rakuten_batch_size_sum") == 30)
        os.kill(server.get("/info").json()["worker_pid"], signal.SIGKILL)
        sums = []
        server.wait_until(lambda: not server.is_ready(), 5)
        while not server.is_ready():
            sums.append(metric(server, "rakuten_batch_size_sum"))
        sums.append(metric(server, "rakuten_batch_size_sum"))
        assert set(sums) == {30}
        server.at_once([ROMAN] * 5)
        server.wait_until(lambda: metric(server, "rakuten_batch_size_sum") == 35)
        assert "in place of a killed worker, before MLflow is asked" in server.log.read_text()
        assert "cannot be reached" not in server.log.read_text()
    assert _shipped(mlflow_store, server) == 35


def _shipped(store: MlflowClient, server: Server) -> float:
    """The predictions that the server's run has in MLflow, of all its minutes."""
    run = server.run(store)
    assert run.data.metrics["status.200"] >= run.data.metrics["predictions"]
    assert not list((server.var / "serving" / "minutes").iterdir())
    return sum(point.value for point in store.get_metric_history(run.info.run_id, "predictions"))


def test_a_full_minute_goes_to_mlflow_while_the_server_runs(mlflow_store, version, tmp_path):
    with serving(tmp_path, MODEL=MODEL) as server:
        if (second := time.time() % 60) > 20:  # a minute that is about to end is exported before the check
            time.sleep(60 - second)
        statuses = [server.predict(ROMAN).status_code for _ in range(7)]
        assert statuses == [200] * 7
        minutes = tmp_path / "serving" / "minutes"
        server.wait_until(lambda: bool(list(minutes.glob("*.draft"))), 30)
        server.wait_until(lambda: not list(minutes.iterdir()), 120)
        assert _shipped(mlflow_store, server) == 7


def test_a_second_server_in_the_same_folder_is_refused_and_the_first_is_left_alone(server):
    (server.var / "serving" / "run-dead").mkdir()  # as SIGKILL leaves it
    environment = {**os.environ, "RAKUTEN_VAR": str(server.var), "SERVE_PORT": "8123", "MODEL": MODEL}
    second = subprocess.run(
        [sys.executable, "-m", "serving"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert second.returncode == 2
    assert f"belongs to a running server ({server.url}, process {server.process.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    assert server.predict(ROMAN).status_code == 200
    assert (server.var / "serving" / "run-dead").is_dir()


def test_after_sigkill_the_next_server_removes_what_was_left_and_ships_the_open_minute(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL) as server:
        server.predict(ROMAN)
        server.wait_until(lambda: bool(list((tmp_path / "serving" / "minutes").iterdir())))
        (run_folder,) = (tmp_path / "serving").glob("run-*")
        server.process.kill()
        server.process.wait()
    with serving(tmp_path, MODEL=MODEL) as server:
        assert not run_folder.exists()
        assert len(list((tmp_path / "serving").glob("run-*"))) == 1
        server.wait_until(lambda: not list((tmp_path / "serving" / "minutes").iterdir()), 60)


def test_overload_leaves_a_few_rows_whose_counts_are_exact(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_QUEUE="4") as server:
        started = time.monotonic()
        statuses = [answer.status_code for answer in server.at_once([ROMAN] * 2000, 48)]
        seconds = time.monotonic() - started
        refused = statuses.count(503)
        assert refused > 100
        rejected = lambda: records(server).query("kind == 'rejected'")  # noqa: E731
        server.wait_until(lambda: rejected()["requests"].sum() >= refused)
        assert rejected()["requests"].sum() == refused
        assert len(rejected()) <= seconds / 0.7 + 2
        assert set(rejected()["reason"]) == {"too many requests at once: try again"}
        server.wait_until(lambda: len(predictions(records(server))) >= statuses.count(200))  # what was answered last
        assert len(predictions(records(server))) == statuses.count(200)


def test_feedback_says_whether_the_request_is_known(server):
    prediction = server.predict(ROMAN).json()
    receipt = server.post("/feedback", {"request_id": prediction["request_id"], "true_code": 10})
    assert (receipt.status_code, receipt.json()) == (202, {"recorded": True, "known": True})
    receipt = server.post("/feedback", {"request_id": "0" * 32, "true_code": 10})
    assert (receipt.status_code, receipt.json()) == (202, {"recorded": True, "known": False})


def test_two_texts_as_long_as_allowed_are_answered_like_short_ones(server):
    words = " ".join("abcdefghij"[i % 10] for i in range(10_000))
    server.predict({"designation": words, "description": words})
    started = time.monotonic()
    answer = server.predict({"designation": words, "description": words})
    assert answer.status_code == 200
    assert time.monotonic() - started < 1.5  # 0.05 s; their combinations took 3.3 s


def test_explanations_leave_memory_flat(server):
    requests = [{**ROMAN, "image": base64_photo(i, 400), "explain": True} for i in range(40)]
    processes = server.processes()
    server.at_once(requests * 2)
    before = memory(processes)
    assert {answer.status_code for answer in server.at_once(requests * 8)} == {200}
    assert memory(processes) < before + 40e6


def test_without_its_store_it_stays_up_says_so_and_takes_the_champion_once_the_store_is_there(
    mlflow_store, version, tmp_path
):
    there = Path(mlflow_store.tracking_uri.removeprefix("sqlite:///"))
    link = tmp_path / "mlflow" / "mlflow.db"
    with serving(tmp_path, wait=False, MODEL=MODEL, MLFLOW_TRACKING_URI=f"sqlite:///{link}") as server:
        problem = "MLflow cannot be reached: the MLflow store is missing: run `make train`, or put the store back"
        server.wait_until(lambda: problem in server.get("/info").json()["problem"], 60)
        assert (server.get("/live").status_code, server.get("/ready").status_code) == (200, 503)
        assert server.predict(ROMAN).status_code == 503
        assert not link.exists()
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(there)
        server.wait_until(server.is_ready, 60)
        assert server.get("/info").json()["problem"] == ""
        assert server.serves(version)


def test_a_bundle_without_its_evaluation_is_served(mlflow_store, tmp_path):
    """Schema 2 is the only one that is read, and this is its earliest form. A version 0 is refused, by another test."""
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "evaluation.json").unlink()
    first = register(mlflow_store, "early", bundle)
    with serving(tmp_path / "var", MODEL="early") as server:
        assert server.serves(first)
        assert server.get("/info").json()["schema_version"] == 2
        assert server.predict(ROMAN).status_code == 200


def test_a_running_server_closes_hours_reads_torn_files_and_forgets_what_is_old(version, tmp_path):
    now = datetime.now(UTC)
    log, open_hours = tmp_path / "prediction_log", tmp_path / "serving" / "open_hours"
    open_hours.mkdir(parents=True)
    for age, torn in ((timedelta(days=9), ""), (timedelta(hours=3), '{"time": "20')):
        moment = now - age
        rows = [{"time": moment.isoformat(), "kind": "prediction", "request_id": f"{i:032x}"} for i in range(3)]
        path = open_hours / f"{moment:%Y-%m-%dT%H}.predictions-{age.days}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
        if age.days:
            compact_segments(open_hours, str(log), now)
    assert len(list(log.rglob("*.parquet"))) == 1
    with serving(tmp_path, MODEL=MODEL, SERVE_LOG_DAYS="7") as server:
        request_id = server.predict(ROMAN).json()["request_id"]
        closed = f"{now - timedelta(hours=3):%Y-%m-%d/%H}.predictions-0.parquet"
        server.wait_until(lambda: [str(p.relative_to(log)) for p in log.rglob("*.parquet")] == [closed], 30)
        assert not (open_hours / path.name).exists()
        server.wait_until(lambda: len(records(server)) == 4)
        assert records(server)["request_id"].tolist() == [*(f"{i:032x}" for i in range(3)), request_id]
        assert "has an incomplete line: read up to that line" in server.log.read_text()


def test_photos_of_a_flood_do_not_pile_up_in_memory(version, tmp_path):
    """Each 2 MB: what waits for the log is bounded by bytes, not by rows."""
    photo = photo_bytes(1, 64) + b"\x00" * 2_000_000
    body = {"image": base64.b64encode(photo).decode()}
    with serving(tmp_path, MODEL=MODEL) as server:
        processes = server.processes()
        server.at_once([body] * 30, 8)
        before = memory(processes)
        assert {answer.status_code for answer in server.at_once([body] * 150, 8)} == {200}
        assert memory(processes) < before + 150e6
        server.wait_until(lambda: len(predictions(records(server))) == 180)
