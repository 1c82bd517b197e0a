"""The app as it runs: a server in a process of its own, called over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient

from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry.versions import promote
from tests.support.bundles import TEXTS, of_schema, register, write_bundle
from tests.support.catalogues import photo_bytes
from tests.support.servers import Server, accuracy, base64_photo, cpu_seconds, memory, predictions, read_log, serving

MODEL = "served"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [write_bundle(folder / str(seed), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def version(mlflow_store: MlflowClient, bundles: list[Path]) -> int:
    return register(mlflow_store, MODEL, bundles[0])


@pytest.fixture(scope="module")
def server(version: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    var = tmp_path_factory.mktemp("serving")
    photos = var / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(photo_bytes(1))
    (photos / "notes.txt").write_text("no photo")
    (photos / "out.jpg").symlink_to(var / "secret.jpg")
    (var / "secret.jpg").write_bytes(photo_bytes(2))
    with serving(var, MODEL=MODEL, SERVE_IMAGE_FOLDER=str(photos), SERVE_LOG_TEXT="0") as running:
        yield running


def bodies(count: int) -> list[dict]:
    """Products with text, with a photo, with both, in turn."""
    products = []
    for i in range(count):
        title, description = TEXTS[i % len(TEXTS)]
        text = {"designation": title, "description": f"{description} {i}"}
        photo = {"image": base64_photo(i)}
        products.append([text, photo, text | photo][i % 3])
    return products


def to_products(requests: list[dict]) -> list[Product]:
    return [
        Product(
            body.get("designation", ""),
            body.get("description", ""),
            base64.b64decode(body["image"]) if "image" in body else None,
        )
        for body in requests
    ]


def records(server: Server) -> pd.DataFrame:
    return read_log(str(server.var / "prediction_log"), server.var / "serving" / "open_hours")


def test_a_product_gets_the_same_answer_over_http_as_from_the_predictor(server, bundles):
    requests = bodies(48)
    scores = Predictor.load(bundles[0]).score(to_products(requests))
    alone = [server.predict(body).json() for body in requests[:6]]
    together = [answer.json() for answer in server.at_once(requests)]
    for i, answer in enumerate(alone + together):
        row = i if i < 6 else i - 6
        assert answer["category_id"] == scores.predicted[row]
        assert answer["predicted_category"] == str(scores.predicted[row])
        assert answer["confidence"] == pytest.approx(scores.confidence[row], abs=1e-3)


def test_a_prediction_has_all_documented_fields(server, version):
    answer = server.predict({**bodies(3)[2], "top_k": 3}).json()
    assert [c["confidence"] for c in answer["top_k"]] == sorted(
        (c["confidence"] for c in answer["top_k"]), reverse=True
    )
    assert len(answer["top_k"]) == 3
    assert answer["top_k"][0]["category_id"] == answer["category_id"]
    assert answer["modalities"] == ["text", "photo"]
    members = answer["members"]
    assert {name: member["modality"] for name, member in members.items()} == {
        "bag": "text",
        "lstm": "text",
        "vgg16": "photo",
    }
    assert sum(member["share"] for member in members.values()) == pytest.approx(1)
    assert all(0 < member["confidence"] <= 1 and member["category_name"] for member in members.values())
    assert (answer["model"], answer["model_version"]) == (MODEL, str(version))
    assert answer["abstained"] is False
    assert (
        answer["category_name"]
        == {10: "livres", 1300: "drones", 2583: "piscine", 2705: "romans"}[answer["category_id"]]
    )
    alone = server.predict({"description": "roman"}).json()
    assert (alone["modalities"], list(alone["members"])) == (["text"], ["bag", "lstm"])


def test_an_explanation_names_words_and_gives_a_heat_map(server):
    explained = server.predict({**bodies(3)[2], "explain": True}).json()["explanation"]
    assert {word["word"] for word in explained["words"]} <= {
        "Roman",
        "policier",
        "Un",
        "livre",
        "de",
        "poche",
        "en",
        "très",
        "bon",
        "état",
        "2",
    }
    assert max(max(row) for row in explained["heat_map"]["rows"]) == 1
    assert len(explained["heat_map"]["square"]) == 4


def test_bad_items_among_good_ones_fail_alone(server):
    requests = bodies(40)
    photo = base64.b64decode(base64_photo(7, 300))
    for i in range(0, 40, 4):
        requests[i] = {"image": base64.b64encode(photo[: len(photo) // 2]).decode()}
    answers = server.at_once(requests, clients=40)
    assert {a.status_code for i, a in enumerate(answers) if i % 4} == {200}
    for broken in answers[::4]:
        assert broken.status_code == 422
        assert broken.json()["detail"][0]["msg"] == "the photo is truncated or damaged: send the whole file"


def test_a_batch_is_answered_in_order_as_its_products_alone(server):
    requests: list = bodies(40)
    requests[7], requests[9], requests[11] = {}, "text", {"image": base64_photo()[:-400]}
    answer = server.post("/predict/batch", {"products": requests})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [i for i, line in enumerate(lines) if line.get("status") == 422] == [7, 9, 11]
    good = [i for i in range(40) if i not in (7, 9, 11)]
    alone = server.at_once([requests[i] for i in good])
    for i, single in zip(good, alone, strict=True):
        assert {**lines[i], "request_id": ""} == {**single.json(), "request_id": ""}
    ids = {lines[i]["request_id"] for i in good}
    assert len(ids) == 37
    server.wait_until(lambda: ids <= set(predictions(records(server))["request_id"]))


def test_a_local_photo_is_read_only_under_the_configured_folder(server):
    assert server.predict({"image": "one.jpg"}).status_code == 200
    assert server.predict({"image": str(server.var / "photos" / "one.jpg")}).status_code == 200
    outside = ["../secret.jpg", str(server.var / "secret.jpg"), "out.jpg", "/etc/passwd", "none.jpg", "notes.txt", "."]
    outside += ["one.jpg\x00", "../" * 200, "/proc/self/environ", "\ud800.jpg"]
    answers = [server.predict({"image": path}) for path in outside]
    assert {answer.status_code for answer in answers} == {422}
    assert len({answer.json()["detail"][0]["msg"] for answer in answers}) == 1
    # too long for a path, so it is not looked up, and the error is that of base64
    assert "no valid base64" in server.predict({"image": "../" * 2000}).json()["detail"][0]["msg"]


def test_feedback_gives_real_accuracy_by_the_prediction_log(server):
    responses = [server.predict(body).json() for body in bodies(4)]
    for i, answer in enumerate(responses):
        code = answer["category_id"] if i else answer["category_id"] + 1
        assert server.post("/feedback", {"request_id": answer["request_id"], "true_code": code}).status_code == 202
    server.predict({"description": 5})
    server.wait_until(lambda: len(predictions(records(server))["true_code"].dropna()) == 4)
    reasons = lambda log: set(log.loc[log["kind"] == "rejected", "reason"])  # noqa: E731
    server.wait_until(lambda: "description: string_type" in reasons(records(server)))
    log = records(server)
    assert accuracy(predictions(log)) == 0.75
    row = predictions(log).set_index("request_id").loc[responses[2]["request_id"]]
    assert row["predicted"] == responses[2]["category_id"]
    assert row["confidence"] == pytest.approx(responses[2]["confidence"])
    assert row[[f"embedding_{i:02}" for i in range(16)]].notna().all()
    assert 0 < row["brightness"] < 1
    assert log["description"].isna().all()


def test_metrics_and_info_describe_the_server(server, version):
    server.predict({"description": "roman"})
    metrics = server.get("/metrics").text
    assert 'rakuten_requests_total{status="200"}' in metrics
    assert f'rakuten_model{{model="{MODEL}",version="{version}"}} 1.0' in metrics
    for name in ("request_seconds_bucket", "batch_size_bucket", "waiting", "reloads_total"):
        assert f"rakuten_{name}" in metrics
    info = server.get("/info").json()
    assert info["labels"] == {"10": "livres", "1300": "drones", "2583": "piscine", "2705": "romans"}
    assert info["metrics"]["pool"]["weighted_f1"] == 0.5
    assert (info["problem"], info["warning"]) == ("", "")
    assert [member["name"] for member in info["members"]] == ["bag", "lstm", "vgg16"]
    assert [weights["licence"] for weights in info["pretrained"]] == ["NONE"]
    assert info["refit"] == "except_test"


def test_an_idle_server_uses_little_of_a_core(server):
    shares = []
    for _ in range(3):  # one of them may include an export to MLflow, which is not idleness
        before, started = cpu_seconds(server.processes()), time.monotonic()
        time.sleep(5)
        shares.append((cpu_seconds(server.processes()) - before) / (time.monotonic() - started))
    assert statistics.median(shares) < 0.05, shares


class Load:
    """Clients that send requests without pause from the context's start to its end."""

    def __init__(self, server: Server, clients: int = 6) -> None:
        self.server, self.answers = server, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        requests = bodies(12)[number::6]
        while not self._stop.is_set():
            for body in requests:
                answer = self.server.predict(body)
                self.answers.append((body, answer.status_code, answer.json()))


def test_a_new_champion_is_taken_over_without_a_failed_or_mixed_answer(mlflow_store, bundles, tmp_path):
    first = register(mlflow_store, "reloaded", bundles[0])
    predictors = {str(first): Predictor.load(bundles[0])}
    with serving(tmp_path, MODEL="reloaded") as server, Load(server) as load:
        second = register(mlflow_store, "reloaded", bundles[1])
        predictors[str(second)] = Predictor.load(bundles[1])
        assert server.wait_until(lambda: server.serves(second)) < 10
        promote(mlflow_store, "reloaded", first, "tests", "back")
        assert server.wait_until(lambda: server.serves(first)) < 10
        time.sleep(1)
    assert {status for _, status, _ in load.answers} == {200}
    assert Counter(answer["model_version"] for _, _, answer in load.answers).keys() == {str(first), str(second)}
    for version, predictor in predictors.items():
        own = [(body, answer) for body, _, answer in load.answers if answer["model_version"] == version]
        scores = predictor.score(to_products([body for body, _ in own]))
        assert [answer["category_id"] for _, answer in own] == scores.predicted.tolist()
        assert [answer["confidence"] for _, answer in own] == pytest.approx(scores.confidence.tolist(), abs=1e-3)


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_serving(mlflow_store, bundles, tmp_path):
    good = register(mlflow_store, "refusing", bundles[0])
    with serving(tmp_path / "var", MODEL="refusing") as server:
        older = register(mlflow_store, "refusing", of_schema(write_bundle(tmp_path / "old", 3), 0))
        reason = f"refusing version {older} cannot be loaded"
        server.wait_until(lambda: reason in server.get("/info").json()["problem"])
        assert "has schema version 0, this code reads 2" in server.get("/info").json()["problem"]
        assert server.serves(good)
        assert server.predict({"description": "roman"}).status_code == 200
        assert reason in server.log.read_text()
        assert "rakuten_failed_reloads_total 1.0" in server.get("/metrics").text
        promote(mlflow_store, "refusing", good, "tests", "back")
        server.wait_until(lambda: server.get("/info").json()["problem"] == "")


def test_without_a_champion_it_stays_up_and_takes_the_first_that_appears(mlflow_store, bundles, tmp_path):
    with serving(tmp_path, wait=False, MODEL="first-ever") as server:
        server.wait_until(lambda: "no champion of first-ever yet" in server.get("/info").json()["problem"], 30)
        assert (server.get("/live").status_code, server.get("/ready").status_code) == (200, 503)
        refused = server.predict({"description": "roman"})
        assert (refused.status_code, refused.json()["detail"]) == (503, "no champion is loaded yet: GET /info says why")
        register(mlflow_store, "first-ever", bundles[0])
        server.wait_until(server.is_ready)
        assert server.predict({"description": "roman"}).status_code == 200


def test_sigterm_finishes_what_is_inside_and_leaves_no_process_and_no_gap_in_the_log(mlflow_store, version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_BATCH="2") as server:
        processes = server.processes()
        statuses: list = []
        requests = [{**bodies(3)[2], "explain": True} for _ in range(40)]
        sender = threading.Thread(target=lambda: statuses.extend(a.status_code for a in server.at_once(requests, 40)))
        sender.start()
        server.wait_until(lambda: _waiting(server) >= 30)
        assert server.stop() == 0
        sender.join()
    assert statuses == [200] * 40
    gone_by = time.monotonic() + 2
    while running := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < gone_by, running
    assert len(predictions(records(server))) == 40
    run = server.run(mlflow_store)
    minutes = mlflow_store.get_metric_history(run.info.run_id, "predictions")
    assert sum(minute.value for minute in minutes) == 40
    assert run.info.status == "FINISHED"
    assert {"mean_confidence", "requests", "latency_ms_p99", "errors", "status.200"} <= set(run.data.metrics)


def _waiting(server: Server) -> float:
    lines = server.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("rakuten_waiting "))


def test_a_killed_worker_fails_only_what_it_held_and_is_back_within_ten_seconds(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_BATCH="4") as server:
        with Load(server, 12) as load:
            time.sleep(2)
            killed = server.get("/info").json()["worker_pid"]
            killed_at = time.time()
            os.kill(killed, signal.SIGKILL)
            server.wait_until(lambda: not server.is_ready(), 5)
            assert server.wait_until(server.is_ready) < 10
            assert server.get("/info").json()["worker_pid"] != killed
            time.sleep(1)
        counts = Counter(status for _, status, _ in load.answers)
        assert set(counts) <= {200, 503, 504}
        assert sum(counts[status] for status in (503, 504)) <= 4  # a batch
        log = predictions(records(server))
        logged = set(log["request_id"])
        missing = [a for _, status, a in load.answers if status == 200 and a["request_id"] not in logged]
        rate = sum(log["time"].astype("int64") / 1e6 < killed_at) / 2
        assert len(missing) <= rate  # of the last second


def test_too_much_load_is_refused_and_memory_stays_flat(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_QUEUE="6") as server:
        processes = server.processes()
        server.at_once(bodies(400), clients=32)
        before = memory(processes)
        answers = server.at_once(bodies(3000), clients=32)
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 503}
        assert {a.headers["retry-after"] for a in answers if a.status_code == 503} == {"2"}
        assert memory(processes) < before + 40e6
        assert server.predict({"description": "roman"}).status_code == 200


def test_a_request_past_its_time_limit_gets_504_and_the_server_goes_on(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_TIME_LIMIT="1", SERVE_BATCH="1") as server:
        answers = server.at_once([{**body, "explain": True} for body in bodies(90)], clients=90)
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 504}
        assert max(a.elapsed.total_seconds() for a in answers) < 4
        server.wait_until(lambda: server.predict({"description": "roman"}).status_code == 200)


def test_an_api_key_guards_all_but_the_probes_and_the_page(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, LIT_SERVER_API_KEY="sesame-1", SERVE_ABSTAIN_BELOW="1") as server:
        key = {"X-API-Key": b"sesame-1"}
        for path in ("/live", "/ready", "/", "/page/page.js"):
            assert server.get(path).status_code == 200
        for path in ("/info", "/metrics", "/docs", "/openapi.json"):
            assert server.get(path).status_code == 401
            assert server.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
            assert server.get(path, headers=key).status_code == 200
        assert server.predict({"description": "roman"}).status_code == 401
        assert server.post("/feedback", {}).status_code == 401
        answer = server.predict({"description": "roman"}, headers=key).json()
        assert answer["abstained"] is True
        assert answer["category_id"] in (10, 1300, 2583, 2705)


@contextmanager
def mlflow_server(store: MlflowClient, var: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """MLflow's own server over the session's store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "-m",
        "mlflow",
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        store.tracking_uri,
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (var / "mlflow.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until = time.monotonic() + 90
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < until, (var / "mlflow.log").read_text()
            time.sleep(0.2)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_mlflow_may_go_down_while_serving_and_stay_down_at_the_next_start(mlflow_store, version, tmp_path):
    with mlflow_server(mlflow_store, tmp_path) as (process, address):
        with serving(tmp_path, MODEL=MODEL, MLFLOW_TRACKING_URI=address) as server, Load(server) as load:
            os.killpg(process.pid, signal.SIGKILL)
            server.wait_until(lambda: "MLflow cannot be reached" in server.get("/info").json()["problem"], 30)
            assert server.is_ready()
        assert {status for _, status, _ in load.answers} == {200}
        assert len(predictions(records(server))) == len(load.answers)
        with serving(tmp_path, MODEL=MODEL, MLFLOW_TRACKING_URI=address) as server:
            assert server.get("/info").json()["model_version"] == str(version)
            assert "serving the last good bundle on disk" in server.log.read_text()
            assert {answer.status_code for answer in server.at_once(bodies(30))} == {200}


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all these processes have ended by then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_after_sigkill_of_the_main_process_nothing_is_left_that_holds_the_port(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL) as server:
        _, *others = server.processes()
        server.process.kill()
        server.process.wait()
        assert gone(others, 20)


def test_a_server_whose_api_process_was_killed_ends_with_status_1_and_leaves_nothing(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL) as server:
        processes = server.processes()
        with httpx.Client() as client:
            client.get(f"{server.url}/live")
            connections = {pid: psutil.Process(pid).net_connections("tcp") for pid in processes}
        (api,) = [pid for pid, opened in connections.items() if any(c.status == "ESTABLISHED" for c in opened)]
        os.kill(api, signal.SIGKILL)
        assert server.process.wait(45) == 1
        assert gone(processes, 15)
        assert "the API process was lost: start the server again" in server.log.read_text()


@pytest.mark.parametrize("seconds", [0.7, 3.0])
def test_sigterm_while_it_starts_ends_it_with_status_0_and_no_traceback(version, tmp_path, seconds):
    with serving(tmp_path, wait=None, MODEL=MODEL) as server:
        time.sleep(seconds)
        assert server.stop() == 0, server.log.read_text()
        assert "Traceback" not in server.log.read_text()


def test_slow_uploads_take_no_place_from_others_and_do_not_hold_up_the_end(version, tmp_path):
    with serving(tmp_path, MODEL=MODEL, SERVE_QUEUE="4") as server:
        host, port = server.url.removeprefix("http://").split(":")
        begun = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        slow = [socket.create_connection((host, int(port))) for _ in range(8)]
        for connection in slow:
            connection.sendall(begun)
        time.sleep(0.5)
        assert server.predict({"description": "roman"}).status_code == 200
        slow[0].settimeout(20)
        assert b"408" in slow[0].recv(100)
        late = socket.create_connection((host, int(port)))
        late.sendall(begun)
        time.sleep(0.3)
        assert server.stop() == 0
        for connection in [*slow, late]:
            connection.close()
