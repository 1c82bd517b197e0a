"""Bodies of error responses: the one place where they are made, for middleware, routes and the worker."""

from __future__ import annotations

from collections.abc import Sequence

from serving.schemas import ErrorDetail, ErrorResponse


def error_body(detail: str | Sequence[ErrorDetail], request_id: str) -> bytes:
    """The JSON of an ErrorResponse."""
    shown = detail if isinstance(detail, str) else list(detail)
    return ErrorResponse(detail=shown, request_id=request_id).model_dump_json().encode()
