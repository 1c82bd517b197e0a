"""Error responses of ASGI middleware, sent in place of the app's response."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope, Send

from serving.schemas import error_body

RETRY_AFTER = "2"  # seconds


async def send_error(
    scope: Scope, send: Send, status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send an ErrorResponse. The rest of an upload is not read, so 408 and 413 close the connection."""
    scope["state"]["reason"] = detail
    body = error_body(detail, scope["state"]["request_id"])
    content = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    close = [(b"connection", b"close")] if status in (408, 413) else []
    await send({"type": "http.response.start", "status": status, "headers": [*content, *headers, *close]})
    await send({"type": "http.response.body", "body": body})


async def send_overloaded(scope: Scope, send: Send) -> None:
    """Send 503 with the seconds until the next try."""
    await send_error(scope, send, 503, "too many requests at once: try again", [(b"retry-after", RETRY_AFTER.encode())])
