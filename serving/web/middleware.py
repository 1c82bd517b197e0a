"""ASGI middleware: request ids, and limits for the size, the time and the number of requests.

`with_middleware` puts them around the app. Every finished request is reported to a callback.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.schemas import PredictionSummary
from serving.settings import Settings
from serving.web.api_key import APIKeyMiddleware
from serving.web.errors import send_error

PREDICT_PATH = "/predict"
BATCH_PATH = "/predict/batch"
UPLOAD_SECONDS = 10.0  # seconds for a request's body
UPLOAD_FACTOR = 4  # times SERVE_QUEUE: requests that may upload at once
OVERLOADED = "too many requests at once: try again"


@dataclass(frozen=True)
class RequestRecord:
    """A finished request. reason: of an error, else empty; prediction: None unless a product was predicted."""

    path: str
    status: int
    seconds: float
    request_id: str
    reason: str
    prediction: PredictionSummary | None = None


@dataclass
class InFlight:
    """Numbers of products whose bodies are being read, and that wait for their responses.

    A request to /predict/batch counts as many as it has in flight at once; until it is parsed, as it may have.
    """

    uploading: int = 0
    processing: int = 0

    def give_back(self, state: State, products: int) -> None:
        """Give back the places of a request that needs no more than these. state: of the request."""
        surplus = max(0, state.places - products)
        state.places -= surplus
        self.processing -= surplus

    def hold_until_done(self, task: asyncio.Task) -> None:
        """Count a product whose client is gone: the worker predicts it all the same."""

        def release(_: asyncio.Task) -> None:
            self.processing -= 1

        self.processing += 1
        task.add_done_callback(release)


class RequestContextMiddleware:
    """Gives each request an id, as header X-Request-ID too, and reports it when it is finished."""

    def __init__(self, app: ASGIApp, on_response: Callable[[RequestRecord], None]) -> None:
        self._app, self._on_response = app, on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id = time.monotonic(), uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "reason": "", "prediction": None}
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - started
            self._on_response(
                RequestRecord(scope["path"], status, seconds, request_id, state["reason"], state["prediction"])
            )


class LimitMiddleware:
    """Reads the body of a POST: 413 if it is too large, 408 if it is too slow.

    503 for predictions if `queue` products are in progress, or if too many upload. A slow upload is not in progress, so
    it takes no place of a request that has arrived.
    """

    def __init__(self, app: ASGIApp, in_flight: InFlight, settings: Settings, seconds: float) -> None:
        """seconds: for an upload."""
        self._app, self._in_flight, self._settings, self._seconds = app, in_flight, settings, seconds
        self._products = {PREDICT_PATH: 1, BATCH_PATH: settings.products_at_once}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        products, flight = self._products.get(scope["path"], 0), self._in_flight
        max_body = self._settings.max_batch_bytes if scope["path"] == BATCH_PATH else self._settings.max_body
        max_uploads = UPLOAD_FACTOR * self._settings.queue
        if products and (self._is_full(products) or flight.uploading + products > max_uploads):
            await send_error(scope, receive, send, 503, OVERLOADED)
            return
        flight.uploading += products
        try:
            async with asyncio.timeout(self._seconds):
                body = await read_body(scope, receive, max_body)
        except TimeoutError:
            message = f"the upload took over {self._seconds:g} seconds: send it faster"
            await send_error(scope, receive, send, 408, message)
            return
        finally:
            flight.uploading -= products
        if body is None:
            await send_error(scope, receive, send, 413, f"the request is over {max_body:,} bytes")
        elif products and self._is_full(products):
            await send_error(scope, receive, send, 503, OVERLOADED)
        else:
            scope["state"]["places"] = products
            flight.processing += products
            try:
                await self._app(scope, replay(body, receive), self._with_time_limit(send))
            finally:
                flight.processing -= scope["state"]["places"]

    def _with_time_limit(self, send: Send) -> Send:
        """Return a `send` that raises TimeoutError for a client that does not read: it would hold its places."""

        async def send_within_limit(message: Message) -> None:
            async with asyncio.timeout(self._settings.time_limit):
                await send(message)

        return send_within_limit

    def _is_full(self, products: int) -> bool:
        return self._in_flight.processing + products > self._settings.queue


def with_middleware(
    app: ASGIApp, settings: Settings, in_flight: InFlight, on_response: Callable[[RequestRecord], None]
) -> ASGIApp:
    """Wrap the app in all middleware, innermost first."""
    app = LimitMiddleware(app, in_flight, settings, UPLOAD_SECONDS)
    app = APIKeyMiddleware(app, settings.api_key)
    return RequestContextMiddleware(app, on_response)


async def read_body(scope: Scope, receive: Receive, max_body: int) -> bytes | None:
    """Read and return the body, None if it is too large: by its header Content-Length, or as soon as it is."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if length.isdigit() and int(length) > max_body:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > max_body:
            return None
        if not message.get("more_body"):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body in one message, then what `receive` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body
