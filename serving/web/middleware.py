"""ASGI middleware: request ids, API key, upload limit, body-size limit, concurrency limit, timeout.

`with_middleware` puts them around the app in this order; each passes on what does not concern it. Every finished
request is reported to a callback.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.schemas import PredictionSummary, error_body
from serving.settings import Settings

PREDICT_PATH = "/predict"
# what the page needs before it has asked for the key, and what an orchestrator asks without one
PUBLIC_PATHS = ("/live", "/ready", "/", "/favicon.ico")
PUBLIC_FOLDER = "/page/"
# what a browser opens by itself, and so cannot send a header of ours with: it may ask for the key as a password
DOCS = ("/docs", "/openapi.json")
ASK_FOR_KEY = (b"www-authenticate", b'Basic realm="API key, as the password"')
RETRY_AFTER = "2"  # seconds
UPLOAD_SECONDS = 10.0  # seconds for a request's body
UPLOAD_FACTOR = 4  # times SERVE_QUEUE: requests that may upload at once
GRACE_SECONDS = 2.0  # beyond the time limit: the reaper answers first, and more precisely


@dataclass(frozen=True)
class RequestRecord:
    """A finished request. reason: of an error, else empty; prediction: of a product that was answered."""

    path: str
    status: int
    seconds: float
    request_id: str
    reason: str
    prediction: PredictionSummary | None = None


@dataclass
class InFlight:
    """How many requests to /predict are uploading, and how many have been read and not been answered."""

    uploading: int = 0
    processing: int = 0


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
            record = RequestRecord(scope["path"], status, seconds, request_id, state["reason"], state["prediction"])
            self._on_response(record)


class APIKeyMiddleware:
    """401 without the key; nothing is asked for where there is none."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._api_key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            ask = [ASK_FOR_KEY] if is_docs(scope["path"]) else None
            await send_error(scope, send, 401, "wrong or missing API key: send it as the header X-API-Key", ask)
        else:
            await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        if not self._api_key or path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER):
            return True
        headers = dict(scope["headers"])
        key = headers.get(b"x-api-key", b"")
        # a password goes along with requests that other sites start: it opens nothing but these pages
        if not key and is_docs(path):
            key = password(headers.get(b"authorization", b""))
        return hmac.compare_digest(key, self._api_key)


class UploadLimitMiddleware:
    """503 where too many upload to /predict or too many are in progress. A slow upload takes no place of the latter."""

    def __init__(self, app: ASGIApp, in_flight: InFlight, queue: int) -> None:
        self._app, self._in_flight, self._queue = app, in_flight, queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_predict(scope):
            await self._app(scope, receive, send)
            return
        flight = self._in_flight
        if flight.uploading >= UPLOAD_FACTOR * self._queue or flight.processing >= self._queue:
            await send_overloaded(scope, send)
            return
        uploading = True

        def finish() -> None:
            nonlocal uploading
            flight.uploading -= uploading
            uploading = False

        async def receive_upload() -> Message:
            message = await receive()
            if not message.get("more_body"):
                finish()
            return message

        flight.uploading += 1
        try:
            await self._app(scope, receive_upload, send)
        finally:
            finish()


class BodySizeLimitMiddleware:
    """Reads the body of a POST: 413 if it is over `max_body` bytes, 408 if it takes over `seconds`."""

    def __init__(self, app: ASGIApp, max_body: int, seconds: float) -> None:
        self._app, self._max_body, self._seconds = app, max_body, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_post(scope):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            await send_error(scope, send, 408, f"the upload took over {self._seconds:g} seconds: send it faster")
            return
        if body is None:
            await send_error(scope, send, 413, f"the request is over {self._max_body:,} bytes")
            return
        await self._app(scope, replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """None if it is too large: by its announced length, or as soon as it is."""
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max_body:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                return None
            if not message.get("more_body"):
                return b"".join(parts)


class ConcurrencyLimitMiddleware:
    """503 where `queue` requests to /predict have been read and not been answered."""

    def __init__(self, app: ASGIApp, in_flight: InFlight, queue: int) -> None:
        self._app, self._in_flight, self._queue = app, in_flight, queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_predict(scope):
            await self._app(scope, receive, send)
            return
        if self._in_flight.processing >= self._queue:
            await send_overloaded(scope, send)
            return
        self._in_flight.processing += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight.processing -= 1


class TimeoutMiddleware:
    """504 for a POST that has no answer after `seconds`."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_post(scope):
            await self._app(scope, receive, send)
            return
        started = False

        async def send_started(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds):
                await self._app(scope, receive, send_started)
        except TimeoutError:
            if not started:
                await send_error(scope, send, 504, "no answer within the time limit")


def with_middleware(
    app: ASGIApp, settings: Settings, in_flight: InFlight, on_response: Callable[[RequestRecord], None]
) -> ASGIApp:
    """The app within all of them."""
    app = TimeoutMiddleware(app, settings.time_limit + GRACE_SECONDS)
    app = ConcurrencyLimitMiddleware(app, in_flight, settings.queue)
    app = BodySizeLimitMiddleware(app, settings.max_body, UPLOAD_SECONDS)
    app = UploadLimitMiddleware(app, in_flight, settings.queue)
    app = APIKeyMiddleware(app, settings.api_key)
    return RequestContextMiddleware(app, on_response)


def is_post(scope: Scope) -> bool:
    """Whether this is a request with a body."""
    return scope["type"] == "http" and scope["method"] == "POST"


def is_predict(scope: Scope) -> bool:
    """Whether this is a product to predict."""
    return is_post(scope) and scope["path"] == PREDICT_PATH


def is_docs(path: str) -> bool:
    """Whether this is /docs, its files or the document they show."""
    return path in DOCS or path.startswith("/docs/")


def password(header: bytes) -> bytes:
    """Of HTTP's basic authentication; empty if the header is none of it."""
    scheme, _, encoded = header.partition(b" ")
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2] if scheme.lower() == b"basic" else b""
    except (binascii.Error, ValueError):
        return b""


def replay(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def send_error(
    scope: Scope, send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer in place of the app. The rest of the body is not read, so the connection ends."""
    scope["state"]["reason"] = detail
    body = error_body(detail, scope["state"]["request_id"])
    plain = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    head = [*plain, *(headers or []), *([(b"connection", b"close")] if status in (408, 413) else [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_overloaded(scope: Scope, send: Send) -> None:
    """503, to be tried again."""
    retry = [(b"retry-after", RETRY_AFTER.encode())]
    await send_error(scope, send, 503, "too many requests at once: try again", retry)
