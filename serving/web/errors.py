"""Error responses of middleware and routes: JSON with a message or with location, message and type; never the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

from serving.schemas import BatchRequest, ErrorDetail, Feedback, PredictRequest, error_body

# The rest of an upload that was refused is not read, so its connection closes.
HEADERS = {408: {"Connection": "close"}, 413: {"Connection": "close"}, 503: {"Retry-After": "2"}}
MAX_DETAILS = 20
# FastAPI raises one message with one of these as its cause, or names its own types
UNPARSED = {
    UnicodeDecodeError: "the body is not UTF-8: send JSON in UTF-8, not compressed",
    RecursionError: "the body is nested too deeply",
    ValueError: "a number in the body has too many digits",
}
MESSAGES = {
    "json_invalid": "the body is no valid JSON",  # FastAPI's message may quote it
    "model_attributes_type": "no JSON object: send one, with the header `Content-Type: application/json`",
}
FIELDS = {"body", "query", "path", "header"}.union(
    *(schema.model_fields for schema in (PredictRequest, BatchRequest, Feedback))
)


def error_response(
    status: int, detail: str | list[ErrorDetail], request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Create a response with an ErrorResponse and the headers of its status."""
    headers = {**HEADERS.get(status, {}), **(headers or {})}
    return Response(error_body(status, detail, request_id), status, headers, "application/json")


async def send_error(
    scope: Scope, receive: Receive, send: Send, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> None:
    """Send an error in place of the app, and note its reason for the request's record."""
    scope["state"]["reason"] = detail
    await error_response(status, detail, scope["state"]["request_id"], headers)(scope, receive, send)


def register_exception_handlers(app: FastAPI) -> None:
    """Handle invalid requests and HTTP errors of the routes."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        details = error_details(error)
        request.state.reason = reason(details)
        return error_response(422, details, request.state.request_id)

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        request.state.reason = UNPARSED.get(type(error.__cause__), str(error.detail))
        return error_response(error.status_code, request.state.reason, request.state.request_id, error.headers)


def error_details(error: RequestValidationError) -> list[ErrorDetail]:
    """Return the first errors, without the input."""
    return [_detail(fields) for fields in error.errors()[:MAX_DETAILS]]


def reason(details: Sequence[ErrorDetail]) -> str:
    """Return fields and types of errors, for the prediction log."""
    return "; ".join(f"{detail.loc[-1]}: {detail.type}" for detail in details)


def _detail(fields: Any) -> ErrorDetail:
    # unknown keys are the client's own words, which are not repeated
    location = [part if isinstance(part, int) or part in FIELDS else "unknown field" for part in fields["loc"]]
    return ErrorDetail(loc=location, msg=MESSAGES.get(fields["type"], fields["msg"]), type=fields["type"])
