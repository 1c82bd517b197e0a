"""POST /predict/batch: each product is checked and predicted alone, and the responses are streamed in order."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from serving.schemas import InferenceResponse, PredictRequest
from serving.web.errors import error_details, reason
from serving.web.middleware import BATCH_PATH, InFlight, RequestRecord

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
LINES: dict[str, Any] = {
    "description": "A line of JSON for each product, in the order of the request: a Prediction, or an ErrorResponse "
    "with the status that the product would get alone",
    "content": {
        NDJSON: {
            "schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Prediction", "ErrorResponse")]}
        }
    },
}

Predict = Callable[[PredictRequest, str], Awaitable[InferenceResponse]]
OnResponse = Callable[[RequestRecord], None]


class LinesResponse(StreamingResponse):
    """The lines of `stream_lines`, which is closed even if sending a line fails, not when it is garbage-collected."""

    def __init__(self, lines: AsyncGenerator[bytes]) -> None:
        # LitServe's gzip would hold the lines back until it has a block of them
        super().__init__(lines, headers={"Content-Encoding": "identity"}, media_type=NDJSON)
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def stream_lines(
    products: Iterable[Any], at_once: int, predict: Predict, on_response: OnResponse, places: InFlight
) -> AsyncGenerator[bytes]:
    """Yield a line for each product, in order, with `at_once` of them in flight; no more are sent for a lost client.

    Those in flight are predicted and logged by the worker all the same, so `shield` lets them be counted, and they
    go on taking places. products: as JSON. predict: predicts a product under a request id. on_response: gets a record
    of each product.
    """
    in_flight: deque[asyncio.Task[InferenceResponse]] = deque()
    try:
        for product in products:
            in_flight.append(asyncio.create_task(_respond(product, predict, on_response)))
            if len(in_flight) == at_once:
                yield await _next_line(in_flight)
        while in_flight:
            yield await _next_line(in_flight)
    finally:
        for task in in_flight:
            places.hold_until_done(task)


async def _next_line(in_flight: deque[asyncio.Task[InferenceResponse]]) -> bytes:
    response = await asyncio.shield(in_flight[0])
    in_flight.popleft()
    return response.body + b"\n"


async def _respond(product: Any, predict: Predict, on_response: OnResponse) -> InferenceResponse:
    """Check and predict one product. Whatever goes wrong is its response."""
    started, request_id = time.monotonic(), uuid.uuid4().hex
    try:
        response = await predict(_parse(product), request_id)
    except RequestValidationError as error:
        details = error_details(error)
        response = InferenceResponse.error(422, details, reason(details), request_id)
    except HTTPException as error:
        response = InferenceResponse.error(error.status_code, error.detail, error.detail, request_id)
    except Exception:
        log.exception("product %s of a batch failed", request_id)
        response = InferenceResponse.error(500, "internal error", "internal error", request_id)
    seconds = time.monotonic() - started
    on_response(RequestRecord(BATCH_PATH, response.status, seconds, request_id, response.reason, response.prediction))
    return response


def _parse(product: Any) -> PredictRequest:
    try:
        return PredictRequest.model_validate(product)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**fields, "loc": ("body", *fields["loc"])} for fields in details]) from None
