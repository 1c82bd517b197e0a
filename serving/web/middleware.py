"""The door of the API process, plain ASGI: key, request id, size, how many at once, how long. Counts what leaves."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.schemas import Said
from serving.settings import Settings

PREDICT = "/predict"
# what the page needs before it has asked for the key, and what an orchestrator asks without one
OPEN = ("/live", "/ready", "/", "/favicon.ico")
OPEN_FOLDER = "/page/"
# what a browser opens by itself, and so cannot send a header of ours with: it may ask for the key as a password
DOCS = ("/docs", "/openapi.json")
ASK_FOR_KEY = (b"www-authenticate", b'Basic realm="API key, as the password"')
RETRY_AFTER = "2"  # seconds
UPLOAD = 10.0  # seconds for a request's body
UPLOADS = 4  # so many times SERVE_QUEUE may upload at once
GRACE = 2.0  # beyond the time limit, within which `watch` answers first and more precisely


@dataclass(frozen=True)
class Left:
    """A request that has been answered. reason: why not, if it was refused; said: what, if it was a product."""

    path: str
    status: int
    seconds: float
    request_id: str
    reason: str
    said: Said | None = None


class Door:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, settings: Settings, on_left: Callable[[Left], None]) -> None:
        self._app, self._settings, self._on_left = app, settings, on_left
        self.inside = 0  # requests to /predict that have been read and not been answered
        self.uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id = time.monotonic(), uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "reason": "", "said": None}
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._admit(scope, receive, noting)
        finally:
            seconds = time.monotonic() - started
            self._on_left(Left(scope["path"], status, seconds, request_id, state["reason"], state["said"]))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_key(scope):
            ask = [ASK_FOR_KEY] if is_docs(scope["path"]) else None
            await refuse(scope, send, 401, "wrong or missing API key: send it as the header X-API-Key", ask)
        elif scope["path"] == PREDICT and scope["method"] == "POST":
            await self._predict(scope, receive, send)
        elif scope["method"] == "POST":
            await self._within_size(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        path = scope["path"]
        if not self._settings.api_key or path in OPEN or path.startswith(OPEN_FOLDER):
            return True
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key", b"")
        # a password goes along with requests that other sites start: it opens nothing but these pages
        if not given and is_docs(path):
            given = password(headers.get(b"authorization", b""))
        return hmac.compare_digest(given, self._settings.api_key.encode())

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A slow upload takes no place from those that have arrived."""
        if self.uploading >= UPLOADS * self._settings.queue or self.inside >= self._settings.queue:
            await self._turn_away(scope, send)
            return
        self.uploading += 1
        try:
            body = await self._uploaded(scope, receive, send)
        finally:
            self.uploading -= 1
        if body is None:
            return
        if self.inside >= self._settings.queue:
            await self._turn_away(scope, send)
            return
        self.inside += 1
        try:
            await self._in_time(scope, replay(body, receive), send)
        finally:
            self.inside -= 1

    async def _turn_away(self, scope: Scope, send: Send) -> None:
        retry = [(b"retry-after", RETRY_AFTER.encode())]
        await refuse(scope, send, 503, "too many requests at once: try again", retry)

    async def _within_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._uploaded(scope, receive, send)
        if body is not None:
            await self._in_time(scope, replay(body, receive), send)

    async def _uploaded(self, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """The body; None if it was refused."""
        try:
            async with asyncio.timeout(UPLOAD):
                body = await self._body(scope, receive)
        except TimeoutError:
            await refuse(scope, send, 408, f"the upload took over {UPLOAD:g} seconds: send it faster")
            return None
        if body is None:
            await refuse(scope, send, 413, f"the request is over {self._settings.max_body:,} bytes")
        return body

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            async with asyncio.timeout(self._settings.time_limit + GRACE):
                await self._app(scope, receive, noting)
        except TimeoutError:
            if not answered:
                await refuse(scope, send, 504, "no answer within the time limit")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """None if it is too large: refused by its announced length, or as soon as it is over."""
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._settings.max_body:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._settings.max_body:
                return None
            if not message.get("more_body"):
                return b"".join(parts)


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


async def refuse(
    scope: Scope, send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer without the app behind the door. The rest of the body is not read, so the connection ends."""
    scope["state"]["reason"] = detail
    body = json.dumps({"detail": detail, "request_id": scope["state"]["request_id"]}).encode()
    plain = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    head = [*plain, *(headers or []), *([(b"connection", b"close")] if status in (408, 413) else [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
