"""Exception handlers: errors as JSON with location, message and type, never the input."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from serving.schemas import ErrorDetail, Feedback, PredictRequest, error_body
from serving.web.responses import error_response

MAX_DETAILS = 20
FIELDS = {"body", "query", "path", "header", *PredictRequest.model_fields, *Feedback.model_fields}


def register_exception_handlers(app: FastAPI) -> None:
    """Handle invalid requests and HTTP errors."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        details = [_detail(fields) for fields in error.errors()[:MAX_DETAILS]]
        request.state.reason = "; ".join(f"{detail.loc[-1]}: {detail.type}" for detail in details)
        return Response(error_body(details, request.state.request_id), 422, media_type="application/json")

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        request.state.reason = str(error.detail)
        return error_response(error.status_code, str(error.detail), request.state.request_id, error.headers)


def _detail(fields: Any) -> ErrorDetail:
    # unknown keys are the client's own words, and the message of invalid JSON may quote it: neither is repeated
    location = [part if isinstance(part, int) or part in FIELDS else "unknown field" for part in fields["loc"]]
    message = "the body is no valid JSON" if fields["type"] == "json_invalid" else fields["msg"]
    return ErrorDetail(loc=location, msg=message, type=fields["type"])
