"""Each middleware over ASGI, in process: no server, no model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serving.settings import Settings
from serving.web.middleware import (
    InFlight,
    LimitMiddleware,
    RequestContextMiddleware,
    RequestRecord,
    with_middleware,
)

KEY = "open sesame"
LIMIT = Settings(max_photo_bytes=30, max_text=1).max_body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body that it was sent."""
    body = (await receive()).get("body", b"") if scope["method"] == "POST" else b"page"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Service:
    """The echo behind all middleware."""

    def __init__(self, app: Any = echo, **settings: Any) -> None:
        self.in_flight, self.records = InFlight(), list[RequestRecord]()
        settings = {"max_photo_bytes": 30, "max_text": 1, **settings}
        self.app = with_middleware(app, Settings(**settings), self.in_flight, self.records.append)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.request(method, path, **options))


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


def test_a_request_has_an_id_and_is_reported_with_it():
    service = Service()
    response = service.send("POST", "/predict", content=b"hello")
    assert (response.status_code, response.content) == (200, b"hello")
    (record,) = service.records
    assert (record.path, record.status, record.reason) == ("/predict", 200, "")
    assert response.headers["x-request-id"] == record.request_id
    assert service.in_flight == InFlight()


def test_an_app_that_raises_is_reported_as_500_and_takes_no_place_for_ever():
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    service = Service(broken)
    with pytest.raises(RuntimeError):
        asyncio.run(_drive(service.app))
    assert [record.status for record in service.records] == [500]
    assert service.in_flight == InFlight()


async def _drive(app: Any) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    await app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/predict", {}, 401),
        ("/predict", {"x-api-key": "wrong"}, 401),
        ("/predict", {"x-api-key": KEY}, 200),
        ("/predict", basic(KEY), 401),  # a browser sends a password along with what other sites start
        ("/docs", basic(KEY), 200),
        ("/docs/files/a.js", basic("wrong"), 401),
        ("/docs", {"authorization": "Basic ???"}, 401),
        ("/docs", {"authorization": "Bearer x"}, 401),
        ("/live", {}, 200),
        ("/ready", {}, 200),
        ("/page/page.js", {}, 200),
        ("/info", {}, 401),
    ],
)
def test_the_key_is_asked_for_where_it_is_needed(path, headers, status):
    service = Service(api_key=KEY)
    response = service.send("POST" if path == "/predict" else "GET", path, headers=headers)
    assert response.status_code == status
    assert ("www-authenticate" in response.headers) == (status == 401 and path.startswith("/docs"))
    assert KEY not in response.text


def test_without_a_key_nothing_is_asked_for():
    assert Service().send("GET", "/info").status_code == 200


async def pieces(number: int, size: int, pause: float = 0.0) -> AsyncIterator[bytes]:
    for _ in range(number):
        await asyncio.sleep(pause)
        yield b"x" * size


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
@pytest.mark.parametrize("path", ["/predict", "/feedback"])
def test_a_body_that_is_too_large_is_refused_by_its_length(path, size, status):
    service = Service()
    response = service.send("POST", path, content=b"x" * size)
    assert response.status_code == status
    assert service.in_flight == InFlight()
    if status == 413:
        assert response.json()["detail"] == f"the request is over {LIMIT:,} bytes"
        assert response.headers["connection"] == "close"


async def send_pieces(app: Callable[..., Awaitable[None]], body: AsyncIterator[bytes]) -> httpx.Response:
    """httpx joins a stream before it sends it to an ASGI app, so this sends the pieces."""
    messages: list[Any] = []
    parts = body.__aiter__()

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
    return httpx.Response(messages[0]["status"], content=messages[1]["body"])


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large():
    sent: list[bytes] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            sent.append(b"x" * (LIMIT // 2))
            yield sent[-1]

    assert asyncio.run(send_pieces(Service().app, endless())).status_code == 413
    assert len(sent) == 3


def test_a_slow_upload_is_ended():
    app = RequestContextMiddleware(LimitMiddleware(echo, InFlight(), Settings(queue=1), 0.05), lambda record: None)
    response = asyncio.run(send_pieces(app, pieces(100, 1, pause=0.02)))
    assert response.status_code == 408
    assert response.json()["detail"] == "the upload took over 0.05 seconds: send it faster"


def test_more_requests_than_places_get_503_and_a_place_is_free_again_afterwards():
    gate = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    service = Service(waits, queue=2)

    async def run() -> list[httpx.Response]:
        first = [asyncio.create_task(service.request("POST", "/predict", content=b"x")) for _ in range(2)]
        while service.in_flight.processing < 2:
            await asyncio.sleep(0)
        third = await service.request("POST", "/predict", content=b"x")
        other = asyncio.create_task(service.request("POST", "/feedback", content=b"x"))
        gate.set()
        return [*await asyncio.gather(*first), third, await other]

    responses = asyncio.run(run())
    assert [response.status_code for response in responses] == [200, 200, 503, 200]
    assert responses[2].headers["retry-after"] == "2"
    assert service.in_flight == InFlight()
    assert service.send("POST", "/predict", content=b"x").status_code == 200


def test_slow_uploads_take_no_place_of_those_that_have_arrived_and_are_limited_themselves():
    service = Service(queue=1)
    go_on = asyncio.Event()

    async def unfinished() -> AsyncIterator[bytes]:
        yield b"x"
        await go_on.wait()

    async def run() -> tuple[list[int], int, int]:
        uploads = [asyncio.create_task(send_pieces(service.app, unfinished())) for _ in range(4)]
        while service.in_flight.uploading < 3:
            await asyncio.sleep(0)
        uploads.pop().cancel()
        while service.in_flight.uploading > 3:
            await asyncio.sleep(0)
        quick = await service.request("POST", "/predict", content=b"x")
        uploads.append(asyncio.create_task(send_pieces(service.app, unfinished())))
        while service.in_flight.uploading < 4:
            await asyncio.sleep(0)
        fifth = await service.request("POST", "/predict", content=b"x")
        go_on.set()
        await asyncio.gather(*uploads, return_exceptions=True)
        return [service.in_flight.uploading, service.in_flight.processing], quick.status_code, fifth.status_code

    assert asyncio.run(run()) == ([0, 0], 200, 503)
