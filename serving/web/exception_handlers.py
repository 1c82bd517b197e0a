"""Exception handlers: errors as JSON with location, message and kind, never the input."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from serving.schemas import ErrorDetail, Feedback, PredictRequest, error_body
from serving.web.middleware import RETRY_AFTER


def register_exception_handlers(app: FastAPI) -> None:
    """For invalid requests and for HTTP errors."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        details = [
            ErrorDetail(loc=[_location(part) for part in found["loc"]], msg=_message(found), type=found["type"])
            for found in error.errors()[:20]
        ]
        request.state.reason = "; ".join(f"{detail.loc[-1]}: {detail.type}" for detail in details)
        return Response(error_body(details, request.state.request_id), 422, media_type="application/json")

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        request.state.reason = str(error.detail)
        body = error_body(str(error.detail), request.state.request_id)
        headers = {"Retry-After": RETRY_AFTER, **(error.headers or {})} if error.status_code == 503 else error.headers
        return Response(body, error.status_code, headers, "application/json")


FIELDS = {"body", "query", "path", "header", *PredictRequest.model_fields, *Feedback.model_fields}


def _location(part: str | int) -> str | int:
    """Unknown keys are the client's own words: they are not repeated."""
    return part if isinstance(part, int) or part in FIELDS else "unknown field"


def _message(error: Any) -> str:
    if error["type"] == "json_invalid":  # its message quotes nothing, its context might
        return "the body is no valid JSON"
    return str(error["msg"])
