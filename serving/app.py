"""The API process: routes on LitServe's app. Errors never repeat the input."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastapi_offline
from cachetools import FIFOCache
from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles

from rakuten_tasks.monitoring.columns import FEEDBACK
from serving.litserve_adapter.reaper import wait_until_alive
from serving.litserve_adapter.server import SingleWorkerServer
from serving.schemas import (
    NOT_READY,
    BatchRequest,
    ErrorResponse,
    Feedback,
    InferenceResponse,
    Prediction,
    PredictRequest,
    Recorded,
)
from serving.settings import Settings
from serving.telemetry.log_writer import PredictionLogWriter
from serving.telemetry.minutes import MinuteMetrics
from serving.telemetry.prometheus import Metrics
from serving.telemetry.rejections import FLUSH_SECONDS, RejectionAggregator
from serving.web.batch import LINES, LinesResponse, stream_lines
from serving.web.errors import HEADERS, register_exception_handlers
from serving.web.middleware import BATCH_PATH, PREDICT_PATH, UPLOAD_SECONDS, InFlight, RequestRecord, with_middleware
from serving.web.request_parsing import parse_request
from serving.worker.api import ProductAPI
from serving.worker_status import READY, StatusReader

PAGE = Path(__file__).parent / "page"
SWAGGER_UI = Path(fastapi_offline.__file__).parent / "static"
# the page loads nothing from other sites, and the browser enforces it
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"}
FEEDBACK_WINDOW = 100_000  # predictions that feedback is known to belong to: 30 MB
MINUTES_SECONDS = 5.0  # seconds between drafts of the minute's metrics
ERRORS = {
    400: "The body is no JSON",
    401: "Wrong or missing API key",
    408: "The upload took too long",
    413: "The body is too large",
    422: "A field is wrong; the input is never repeated",
    503: "Too many requests, or no champion yet: try again",
    504: "No answer within the time limit",
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in ERRORS.items()
}


class ProductServer:
    """LitServe's server with the routes and the telemetry of this project."""

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        """run_folder: shared by the processes of this server; empty at the start."""
        self.settings = settings
        # requests in flight at SIGTERM are finished: none takes longer than this
        shutdown_seconds = math.ceil(UPLOAD_SECONDS + settings.time_limit) + 5
        self.lit = SingleWorkerServer(ProductAPI(settings, run_folder), shutdown_seconds)
        self.worker_status = StatusReader(run_folder)
        self.log_writer = PredictionLogWriter(settings.open_hours, "requests")
        self.minutes = MinuteMetrics(settings.folder / "minutes")
        self.rejections = RejectionAggregator(self.log_writer.add)
        self.predicted_ids: FIFOCache[str, bool] = FIFOCache(FEEDBACK_WINDOW)
        self.in_flight = InFlight()
        self.metrics = Metrics(self.worker_status.status, lambda: self.in_flight.processing)
        self.app: FastAPI = self.lit.app
        self.app.title, self.app.version = "Rakuten product classifier", "1"
        self.lit.add_lifespan(self._background)
        register_exception_handlers(self.app)
        # documents the key in /openapi.json; APIKeyMiddleware checks it
        key = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if settings.api_key else []
        self._add_product_routes(key)
        self._add_server_routes(key)
        self._add_pages()
        self.app.add_middleware(
            with_middleware,  # Starlette takes a function that wraps the app as it takes a class
            settings=settings, in_flight=self.in_flight, on_response=self._on_response,
        )  # fmt: skip

    @contextlib.contextmanager
    def _background(self) -> Iterator[None]:
        """Run the background work of the API process."""
        self.log_writer.start()
        tasks = [
            asyncio.create_task(self.lit.reaper(self.worker_status.is_alive).run()),
            asyncio.create_task(call_every(MINUTES_SECONDS, self.minutes.tick)),
            asyncio.create_task(call_every(FLUSH_SECONDS, self.rejections.flush)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.rejections.flush()
            self.log_writer.close()
            self.minutes.close()

    def _on_response(self, request: RequestRecord) -> None:
        """Count a finished request to /predict, and one to /predict/batch that was refused."""
        if request.path == PREDICT_PATH or (request.path == BATCH_PATH and request.status != 200):
            self._on_product(request)

    def _on_product(self, request: RequestRecord) -> None:
        """Count a product that was predicted or refused."""
        self.metrics.observe_request(request)
        self.minutes.add(request)
        if request.status >= 400:
            self.rejections.add(request)
        else:
            self.predicted_ids[request.request_id] = True

    async def _predict(self, product: PredictRequest, request_id: str) -> InferenceResponse:
        """Predict a product. Raises RequestValidationError if it is none, HTTPException(504) after the time limit."""
        request = parse_request(product, request_id, self.settings)
        try:
            async with asyncio.timeout(self.settings.time_limit):
                await wait_until_alive(self.worker_status.is_alive)
                return await self.lit.submit(request)
        except TimeoutError:
            raise HTTPException(504, "no answer within the time limit") from None

    def _add_product_routes(self, key: list[Any]) -> None:
        """Add /predict, /predict/batch and /feedback."""

        @self.app.post(
            PREDICT_PATH,
            response_model=Prediction,
            responses=ERROR_RESPONSES,
            dependencies=key,
            summary="The type code of a product",
        )
        async def predict(product: PredictRequest, request: Request) -> Response:
            response = await self._predict(product, request.state.request_id)
            request.state.reason, request.state.prediction = response.reason, response.prediction
            return Response(response.body, response.status, HEADERS.get(response.status), "application/json")

        @self.app.post(
            BATCH_PATH,
            responses={**ERROR_RESPONSES, 200: LINES},
            response_class=StreamingResponse,
            dependencies=key,
            summary="The type codes of up to 256 products, streamed",
        )
        async def predict_batch(batch: BatchRequest, request: Request) -> Response:
            if self.worker_status.status().state != READY:
                raise HTTPException(503, NOT_READY)
            at_once = self.settings.products_at_once
            self.in_flight.give_back(request.state, len(batch.products))
            lines = stream_lines(batch.products, at_once, self._predict, self._on_product, self.in_flight)
            return LinesResponse(lines)

        @self.app.post(
            "/feedback",
            status_code=202,
            responses=ERROR_RESPONSES,
            dependencies=key,
            summary="The true type code of a product",
        )
        async def feedback(body: Feedback) -> Recorded:
            row = {"kind": FEEDBACK, "request_id": body.request_id, "true_code": body.true_code}
            self.log_writer.add({"time": datetime.now(UTC).isoformat(), **row})
            self.metrics.count_feedback()
            return Recorded(recorded=True, known=body.request_id in self.predicted_ids)

    def _add_server_routes(self, key: list[Any]) -> None:
        """Add the probes, /info and /metrics."""

        @self.app.get("/live", summary="The API process runs")
        async def live() -> dict[str, bool]:
            return {"live": True}

        @self.app.get("/ready", responses={503: {"description": "No"}}, summary="A worker holds a loaded champion")
        async def ready() -> JSONResponse:
            is_ready = self.worker_status.status().state == READY
            return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

        @self.app.get(
            "/info", dependencies=key, summary="The champion: version, members, weights, metrics, labels; problems"
        )
        async def info() -> dict[str, Any]:
            status = self.worker_status.status()
            return {
                "state": status.state,
                "problem": status.problem,
                "warning": "",  # the bundle replaces it if its pretrained weights are not the configured ones
                "model": status.model,
                "model_version": status.version,
                "reloads": status.reloads,
                "failed_reloads": status.failed_reloads,
                "abstain_below": self.settings.abstain_below,
                "local_paths": self.settings.image_folder is not None,
                "worker_pid": status.pid,
                **status.bundle,
            }

        @self.app.get("/metrics", dependencies=key, summary="For Prometheus", response_class=PlainTextResponse)
        async def metrics() -> Response:
            return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _add_pages(self) -> None:
        """Add the page, and Swagger UI from local files: FastAPI's own /docs loads them from the internet."""
        self.app.mount("/page", StaticFiles(directory=PAGE), name="page")
        self.app.mount("/docs/files", StaticFiles(directory=SWAGGER_UI))

        @self.app.get("/", include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

        @self.app.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return get_swagger_ui_html(
                openapi_url="/openapi.json",
                title=self.app.title,
                swagger_js_url="/docs/files/swagger-ui-bundle.js",
                swagger_css_url="/docs/files/swagger-ui.css",
                swagger_favicon_url="/docs/files/favicon.png",
            )


async def call_every(seconds: float, function: Callable[[], None]) -> None:
    """Call the function again and again until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        function()
