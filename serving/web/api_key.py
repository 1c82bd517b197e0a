"""ASGI middleware for the API key."""

from __future__ import annotations

import base64
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.web.errors import send_error

# What the page needs before its user has entered the key, and an orchestrator's probes.
PUBLIC_PATHS = ("/live", "/ready", "/", "/favicon.ico")
PUBLIC_FOLDER = "/page/"
# A browser opens these by itself, without our header: the key may be the password of HTTP's basic authentication.
DOCS = ("/docs", "/openapi.json")
BASIC_CHALLENGE = {"WWW-Authenticate": 'Basic realm="API key, as the password"'}


class APIKeyMiddleware:
    """401 without the key; passes on everything if the server has no key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._api_key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            headers = BASIC_CHALLENGE if is_docs(scope["path"]) else None
            message = "wrong or missing API key: send it as the header X-API-Key"
            await send_error(scope, receive, send, 401, message, headers)
        else:
            await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        if not self._api_key or path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER):
            return True
        headers = dict(scope["headers"])
        key = headers.get(b"x-api-key", b"")
        # only here, as a browser sends its password along with requests that other sites start
        if not key and is_docs(path):
            key = basic_password(headers.get(b"authorization", b""))
        return hmac.compare_digest(key, self._api_key)


def is_docs(path: str) -> bool:
    """Whether the path is /docs, one of its files or the document that it shows."""
    return path in DOCS or path.startswith("/docs/")


def basic_password(header: bytes) -> bytes:
    """Return the password of HTTP's basic authentication, empty if the header has none."""
    scheme, _, encoded = header.partition(b" ")
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2] if scheme.lower() == b"basic" else b""
    except ValueError:
        return b""
