"""Exception handlers: errors as JSON with location, message and kind, never the input."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from serving.schemas import ErrorDetail, Feedback, PredictRequest
from serving.web.middleware import RETRY_AFTER


def register_exception_handlers(app: FastAPI) -> None:
    """For requests that are wrong, and for all that is refused."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            ErrorDetail(loc=[_place(part) for part in fault["loc"]], msg=_message(fault), type=fault["type"])
            for fault in error.errors()[:20]
        ]
        request.state.reason = "; ".join(f"{fault.loc[-1]}: {fault.type}" for fault in faults)
        detail = [fault.model_dump() for fault in faults]
        return JSONResponse({"detail": detail, "request_id": request.state.request_id}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        request.state.reason = str(error.detail)
        body = {"detail": error.detail, "request_id": request.state.request_id}
        headers = {"Retry-After": RETRY_AFTER, **(error.headers or {})} if error.status_code == 503 else error.headers
        return JSONResponse(body, error.status_code, headers=headers)


FIELDS = {"body", "query", "path", "header", *PredictRequest.model_fields, *Feedback.model_fields}


def _place(part: str | int) -> str | int:
    """Unknown keys are the client's own words: they are not repeated."""
    return part if isinstance(part, int) or part in FIELDS else "unknown field"


def _message(fault: Any) -> str:
    if fault["type"] == "json_invalid":  # its message quotes nothing, its context might
        return "the body is no valid JSON"
    return str(fault["msg"])
