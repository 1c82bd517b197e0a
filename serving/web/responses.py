"""Error responses of ASGI middleware, sent in place of the app's response."""

from __future__ import annotations

from fastapi import Response
from starlette.types import Receive, Scope, Send

from serving.schemas import error_body

# The rest of an upload that was refused is not read, so its connection closes.
HEADERS = {408: {"Connection": "close"}, 413: {"Connection": "close"}, 503: {"Retry-After": "2"}}


def error_response(status: int, detail: str, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """Create a response with an ErrorResponse and the headers of its status."""
    return Response(
        error_body(detail, request_id), status, {**HEADERS.get(status, {}), **(headers or {})}, "application/json"
    )


async def send_error(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, headers: dict[str, str] | None = None
) -> None:
    """Send an error and note its reason for the request's record."""
    scope["state"]["reason"] = detail
    await error_response(status, detail, scope["state"]["request_id"], headers)(scope, receive, send)
