"""POST /predict/batch over ASGI, in process: the worker is a stub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException

from serving.app import ProductServer
from serving.schemas import NOT_READY, InferenceRequest, InferenceResponse, PredictionSummary
from serving.settings import Settings
from serving.web.middleware import OVERLOADED
from serving.worker_status import LOADING, READY, WAITING, Status
from tests.support.servers import base64_photo

PATH = "/predict/batch"


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": PATH,
    "headers": [(b"content-type", b"application/json"), (b"accept-encoding", b"gzip")],
    "query_string": b"",
    "asgi": {"spec_version": "2.3"},
    "http_version": "1.1",
}


class StubServer(ProductServer):
    """Answers with the description; "slow" after the others, "lost" as if its worker was killed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(Settings(var=folder, **settings), folder)
        self.in_worker, self.most_in_worker, self.requests = 0, 0, list[InferenceRequest]()
        self.worker_status.is_alive = lambda: True
        self.worker_status.status = lambda: Status(READY)
        self.lit.submit = self._submit

    async def _submit(self, request: InferenceRequest) -> InferenceResponse:
        self.requests.append(request)
        self.in_worker += 1
        self.most_in_worker = max(self.most_in_worker, self.in_worker)
        try:
            await asyncio.sleep(0.05 if request.description == "slow" else 0)
        finally:
            self.in_worker -= 1
        if request.description == "lost":
            raise HTTPException(503, "the worker was killed")
        if request.description == "bug":
            raise ZeroDivisionError
        body = json.dumps({"text": request.description, "request_id": request.request_id}).encode()
        return InferenceResponse(200, body, prediction=PredictionSummary(10, 0.5, False))

    def post(self, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.post(path, **options)

        return asyncio.run(send())

    def lines(self, products: list[Any]) -> list[dict]:
        response = self.post(PATH, json={"products": products})
        assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
        return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
def server(tmp_path: Path) -> StubServer:
    return StubServer(tmp_path, batch=4, queue=16)


def test_answers_are_in_the_order_of_the_products_and_each_has_an_id_of_its_own(server):
    lines = server.lines([{"description": "slow" if i % 7 == 0 else f"roman {i}"} for i in range(256)])
    assert [line["text"] for line in lines] == ["slow" if i % 7 == 0 else f"roman {i}" for i in range(256)]
    assert len({line["request_id"] for line in lines}) == 256
    assert server.most_in_worker == 2 * 4


def test_a_bad_product_gets_the_error_that_it_gets_alone_and_the_others_an_answer(server):
    cut = base64_photo()[:-400]
    bad = [{}, {"description": 1}, {"secret": "x"}, "text", None, {"image": cut}, {"description": "x" * 20_001}]
    lines = server.lines([{"description": "first"}, *bad, {"description": "last"}])
    alone = [server.post("/predict", json=product) for product in bad]
    assert [line["text"] for line in (lines[0], lines[-1])] == ["first", "last"]
    for line, response in zip(lines[1:-1], alone, strict=True):
        assert (line["status"], response.status_code) == (422, 422)
        assert [detail["loc"] for detail in line["detail"]] == [detail["loc"] for detail in response.json()["detail"]]
        if line["detail"][0]["loc"] != ["body"]:  # FastAPI has its own words for a body that is no object
            assert line["detail"] == response.json()["detail"]
    assert "secret" not in json.dumps(lines)


def test_what_fails_in_the_worker_fails_alone(server, caplog):
    lines = server.lines([{"description": text} for text in ("lost", "bug", "roman")])
    assert [(line.get("status"), line.get("detail")) for line in lines] == [
        (503, "the worker was killed"), (500, "internal error"), (None, None),
    ]  # fmt: skip
    assert f"product {lines[1]['request_id']} of a batch failed" in caplog.text


def test_a_product_past_its_time_limit_is_a_504_of_its_own(tmp_path):
    server = StubServer(tmp_path, time_limit=0.1)
    server.lit.submit = lambda request: asyncio.sleep(0 if request.description == "quick" else 9, _answer())
    lines = server.lines([{"description": "stuck"}, {"description": "quick"}])
    assert [line.get("status") for line in lines] == [504, None]


def _answer() -> InferenceResponse:
    return InferenceResponse(200, b"{}")


def test_the_number_of_products_is_limited(server):
    for number in (0, 257):
        response = server.post(PATH, json={"products": [{"description": "roman"}] * number})
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "products"]
        assert len(response.content) < 400
    assert server.requests == []


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(tmp_path):
    server, read = StubServer(tmp_path, max_batch_bytes=100_000), list[int]()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b" " * 10_000

    response = server.post(PATH, content=pieces())
    assert (response.status_code, response.json()["detail"]) == (413, "the request is over 100,000 bytes")
    assert len(read) == 11
    assert server.post(PATH, content=b"", headers={"content-length": "100001"}).status_code == 413


def test_a_batch_takes_the_places_of_the_products_that_it_has_in_flight(server):
    body = {"products": [{"description": "roman"}]}
    server.in_flight.processing = 16 - 2 * 4
    assert server.post(PATH, json=body).status_code == 200
    server.in_flight.processing += 1
    refused = server.post(PATH, json=body)
    assert (refused.status_code, refused.json()["detail"]) == (503, OVERLOADED)
    assert refused.headers["retry-after"] == "2"
    assert server.in_flight.processing == 16 - 2 * 4 + 1


def test_a_small_batch_gives_the_places_back_that_it_does_not_need(server):
    places = list[int]()
    submit = server.lit.submit

    async def count_and_submit(request: InferenceRequest) -> InferenceResponse:
        places.append(server.in_flight.processing)
        return await submit(request)

    server.lit.submit = count_and_submit
    server.lines([{"description": "first"}, {"description": "second"}])
    server.lines([{"description": "roman"}] * 20)
    assert (places[:2], set(places[2:]), server.in_flight.processing) == ([2, 2], {2 * 4}, 0)


def test_the_key_and_the_champion_are_needed_as_for_one_product(tmp_path):
    server, body = StubServer(tmp_path, api_key="open sesame"), {"products": [{"description": "roman"}]}
    assert server.post(PATH, json=body).status_code == 401
    key = {"x-api-key": "open sesame"}
    assert server.post(PATH, json=body, headers=key).status_code == 200
    for state in (WAITING, LOADING):
        server.worker_status.status = lambda state=state: Status(state)
        refused = server.post(PATH, json=body, headers=key)
        assert (refused.status_code, refused.json()["detail"]) == (503, NOT_READY)


def test_each_product_counts_in_the_metrics_the_minutes_and_the_rejections(server, monkeypatch):
    rows, minutes = list[dict](), list[tuple]()
    server.rejections._write = rows.append
    monkeypatch.setattr(server.minutes, "add", lambda request: minutes.append((request.status, request.prediction)))
    lines = server.lines([{"description": "roman"}, {}, {"description": "livre"}])
    assert server.post(PATH, json={}).status_code == 422
    text = server.metrics.text().decode()
    assert 'rakuten_requests_total{status="200"} 2.0' in text
    assert 'rakuten_requests_total{status="422"} 2.0' in text
    assert sorted((status, prediction is not None) for status, prediction in minutes) == [
        (200, True), (200, True), (422, False), (422, False),
    ]  # fmt: skip
    server.rejections.flush()
    assert {row["reason"]: row["requests"] for row in rows} == {
        "description: nothing_to_read": 1, "products: missing": 1,
    }  # fmt: skip
    assert rows[0]["request_id"] == lines[1]["request_id"]
    assert [line["request_id"] in server.predicted_ids for line in lines] == [True, False, True]


def test_a_line_is_sent_while_the_next_product_is_predicted(server):
    async def read() -> list[bytes]:
        first_line, chunks = asyncio.Event(), list[bytes]()
        submit = server.lit.submit

        async def submit_after_the_first_line(request: InferenceRequest) -> InferenceResponse:
            if request.description == "second":
                await first_line.wait()
            return await submit(request)

        server.lit.submit = submit_after_the_first_line
        products = [{"description": "first"}, {"description": "second"}]
        messages = [{"type": "http.request", "body": json.dumps({"products": products}).encode()}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else await asyncio.sleep(9, {})

        async def send(message: Any) -> None:
            if chunk := message.get("body"):
                chunks.append(chunk)
                first_line.set()

        async with asyncio.timeout(5):
            await server.app(SCOPE, receive, send)
        return chunks

    assert [json.loads(chunk)["text"] for chunk in asyncio.run(read())] == ["first", "second"]


@pytest.mark.parametrize("first", ["slow", "quick"], ids=["while it waits for a line", "while a line is sent"])
def test_nothing_more_is_predicted_for_a_client_that_is_gone_and_what_was_is_counted(server, first):
    async def leave() -> None:
        products = [{"description": first}, *[{"description": "slow"}] * 98]
        messages = [{"type": "http.request", "body": json.dumps({"products": products}).encode()}]
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            if first == "quick":
                await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                gone.set()
                await asyncio.sleep(9)

        await server.app(SCOPE, receive, send)
        assert server.in_flight.processing == server.in_worker > 0
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    assert 0 < len(server.requests) <= 2 * 4
    assert f'rakuten_requests_total{{status="200"}} {len(server.requests)}.0' in server.metrics.text().decode()
    assert (server.in_worker, server.in_flight.processing) == (0, 0)


def test_a_client_that_does_not_read_loses_its_places_after_the_time_limit(tmp_path):
    server = StubServer(tmp_path, batch=4, queue=16, time_limit=0.1)

    async def stall() -> None:
        messages = [{"type": "http.request", "body": json.dumps({"products": [{"description": "x"}] * 99}).encode()}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else await asyncio.sleep(9, {})

        async def send(message: Any) -> None:
            await asyncio.sleep(9 if message.get("body") else 0)

        async with asyncio.timeout(5):
            await server.app(SCOPE, receive, send)

    with pytest.raises(TimeoutError) as raised:
        asyncio.run(stall())
    assert "send_within_limit" in {entry.name for entry in raised.traceback}
    assert (server.in_worker, server.in_flight.processing) == (0, 0)


def test_openapi_describes_the_body_and_the_lines(server):
    route = server.app.openapi()["paths"][PATH]["post"]
    assert route["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/BatchRequest")
    assert list(route["responses"]["200"]["content"]) == ["application/x-ndjson"]
    products = server.app.openapi()["components"]["schemas"]["BatchRequest"]["properties"]["products"]
    assert (products["minItems"], products["maxItems"]) == (1, 256)
    assert products["items"]["$ref"].endswith("/PredictRequest")
