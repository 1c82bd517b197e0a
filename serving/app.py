"""The API process: routes on LitServe's app. Errors never repeat the input."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from litserve.connector import check_cuda_with_nvidia_smi
from litserve.server import RegularRequestHandler

from rakuten_tasks.monitoring.columns import FEEDBACK
from serving.litserve_adapter.reaper import PendingRequestReaper, until_alive
from serving.litserve_adapter.server import SingleWorkerServer
from serving.litserve_adapter.status import READY, StatusReader
from serving.schemas import ErrorResponse, Feedback, InferenceResponse, Prediction, PredictRequest, Recorded
from serving.settings import Settings
from serving.telemetry.log_writer import PredictionLogWriter
from serving.telemetry.minutes import MinuteMetrics
from serving.telemetry.prometheus import Metrics
from serving.telemetry.recent_ids import RecentIds
from serving.telemetry.rejections import FLUSH, RejectionAggregator
from serving.web.api_docs import add_docs
from serving.web.exception_handlers import register_exception_handlers
from serving.web.middleware import (
    GRACE_SECONDS,
    PREDICT_PATH,
    RETRY_AFTER,
    UPLOAD_SECONDS,
    InFlight,
    RequestRecord,
    with_middleware,
)
from serving.web.request_parsing import FieldError, parse_request
from serving.worker.api import ProductAPI

PAGE = Path(__file__).parent / "page"
FEEDBACK_WINDOW = 100_000  # answers that feedback is known to belong to: 20 MB
# the page takes nothing from elsewhere, and says so to the browser
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is no JSON"},
    401: {"model": ErrorResponse, "description": "Wrong or missing API key"},
    408: {"model": ErrorResponse, "description": "The upload took too long"},
    413: {"model": ErrorResponse, "description": "The body is too large"},
    422: {"model": ErrorResponse, "description": "A field is wrong; the input is never repeated"},
    503: {"model": ErrorResponse, "description": "Too many requests, or no champion yet: try again"},
    504: {"model": ErrorResponse, "description": "No answer within the time limit"},
}


class ProductServer:
    """LitServe's server with our routes in place of its own."""

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        self.settings = settings
        self.api = ProductAPI(settings, run_folder)
        # LitServe's timeout drops what has waited; ours answers it
        self.lit = SingleWorkerServer(
            self.api,
            # left to itself LitServe imports torch to find out: 480 MB in a process that needs none of it
            accelerator="cuda" if check_cuda_with_nvidia_smi() else "cpu",
            devices=1,
            timeout=False,
            restart_workers=True,
            healthcheck_path="/lit/health",
            info_path="/lit/info",
        )
        self.lit.monitor_internal = 0.3  # seconds between looks for a killed worker
        # no request may take longer; those in flight at SIGTERM are answered, however many wait
        self.lit.uvicorn_graceful_timeout = math.ceil(UPLOAD_SECONDS + settings.time_limit + GRACE_SECONDS) + 3
        self.worker_status = StatusReader(run_folder)
        self.recorder = PredictionLogWriter(settings.open_hours, "requests")
        self.minutes = MinuteMetrics(settings.folder / "minutes")
        self.rejections = RejectionAggregator(self.recorder.add)
        self.answered_ids = RecentIds(FEEDBACK_WINDOW)
        self.in_flight = InFlight()
        self.metrics = Metrics(self.worker_status.status, lambda: self.in_flight.processing)
        self.app: FastAPI = self.lit.app
        self._configure_app()

    def _configure_app(self) -> None:
        self.app.title, self.app.version = "Rakuten product classifier", "1"
        self.app.router.routes[:] = [route for route in self.app.router.routes if not _is_of_litserve(route)]
        lit_lifespan = self.app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with lit_lifespan(app):
                with self._background():
                    yield

        self.app.router.lifespan_context = lifespan
        register_exception_handlers(self.app)
        add_docs(self.app)
        add_product_routes(self)
        add_server_routes(self)
        self.app.mount("/page", StaticFiles(directory=PAGE), name="page")
        self.app.add_middleware(
            with_middleware,  # a function that wraps the app does as well as a class
            settings=self.settings, in_flight=self.in_flight, on_response=self._on_response,
        )  # fmt: skip

    @contextlib.contextmanager
    def _background(self) -> Any:
        """Runs in the API process only, from its start to its end."""
        self.recorder.start()
        reaper = PendingRequestReaper(self.lit.response_buffer, self.worker_status.alive, self.settings.time_limit)
        background = [reaper.run(), every(5, self.minutes.tick), every(FLUSH, self.rejections.flush)]
        tasks = [asyncio.create_task(task) for task in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.rejections.flush()
            self.recorder.close()
            self.minutes.close()

    def _on_response(self, record: RequestRecord) -> None:
        self.metrics.observe_request(record)
        if record.path != PREDICT_PATH:
            return
        self.minutes.add(record)
        if record.status >= 400:
            self.rejections.add(record)
        else:
            self.answered_ids.add(record.request_id)

    def record(self, record: dict[str, Any]) -> None:
        """Append to the prediction log, now."""
        self.recorder.add({"time": datetime.now(UTC).isoformat(), **record})


async def every(seconds: float, do: Callable[[], None]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        do()


def _is_of_litserve(route: Any) -> bool:
    ours = ("/", "/lit/health", "/lit/info", PREDICT_PATH, "/docs", "/redoc")
    return getattr(route, "path", "") in ours


def security(settings: Settings) -> list[Any]:
    """What tells /openapi.json of the key. APIKeyMiddleware checks it."""
    return [Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if settings.api_key else []


def add_product_routes(server: ProductServer) -> None:
    """/predict and /feedback."""
    app, settings, worker_status, key = server.app, server.settings, server.worker_status, security(server.settings)
    handler = RegularRequestHandler(server.api, server.lit)

    @app.post(
        PREDICT_PATH,
        response_model=Prediction,
        responses=ERROR_RESPONSES,
        dependencies=key,
        summary="The type code of a product",
    )
    async def predict(product: PredictRequest, request: Request) -> Response:
        try:
            inference_request = parse_request(product, request.state.request_id, settings)
        except FieldError as error:
            fault = {"loc": ("body", error.field), "msg": str(error), "type": error.kind}
            raise RequestValidationError([fault]) from error
        if not worker_status.alive():
            await until_alive(worker_status.alive, settings.time_limit)
        response: InferenceResponse = await handler.handle_request(inference_request, PredictRequest)
        request.state.reason, request.state.prediction = response.reason, response.prediction
        headers = {"Retry-After": RETRY_AFTER} if response.status == 503 else None
        return Response(response.body, response.status, headers, "application/json")

    @app.post(
        "/feedback", status_code=202, responses=ERROR_RESPONSES, dependencies=key, summary="What a product really was"
    )
    async def feedback(body: Feedback) -> Recorded:
        server.record({"kind": FEEDBACK, "request_id": body.request_id, "true_code": body.true_code})
        server.metrics.count_feedback()
        return Recorded(recorded=True, known=body.request_id in server.answered_ids)


def add_server_routes(server: ProductServer) -> None:
    """What the server says of itself, and the page."""
    app, settings, worker_status, key = server.app, server.settings, server.worker_status, security(server.settings)

    @app.get("/live", summary="The API process runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready", responses={503: {"description": "No"}}, summary="A worker holds a loaded champion")
    async def ready() -> JSONResponse:
        is_ready = worker_status.status().state == READY
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/info", dependencies=key, summary="The champion: version, members, weights, metrics, labels; problems")
    async def info() -> dict[str, Any]:
        status = worker_status.status()
        return {
            "state": status.state,
            "problem": status.problem,
            "warning": "",  # of the bundle: its pretrained weights are not those that were asked for
            "model": status.model,
            "model_version": status.version,
            "reloads": status.reloads,
            "failed_reloads": status.failed_reloads,
            "abstain_below": settings.abstain_below,
            "local_paths": bool(settings.image_folder),
            "worker_pid": status.pid,
            **status.bundle,
        }

    @app.get("/metrics", dependencies=key, summary="For Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)
