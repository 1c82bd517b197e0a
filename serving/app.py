"""The API process: routes on LitServe's app, errors that never repeat the input."""

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
from serving.litserve_adapter.reaper import Watch, until_alive
from serving.litserve_adapter.server import OneWorkerServer
from serving.litserve_adapter.status import READY, Reader
from serving.schemas import Answered, Feedback, Prediction, PredictRequest, Recorded, Refusal
from serving.settings import Settings
from serving.telemetry.log_writer import Recorder
from serving.telemetry.mlflow_minutes import Minutes
from serving.telemetry.prometheus import Telemetry
from serving.telemetry.recent_ids import Recent
from serving.telemetry.rejections import FLUSH, Refusals
from serving.web.api_docs import add_docs
from serving.web.exception_handlers import add_errors
from serving.web.middleware import GRACE, PREDICT, RETRY_AFTER, UPLOAD, Door, Left
from serving.web.request_parsing import FieldError, read_product
from serving.worker.api import ProductAPI

PAGE = Path(__file__).parent / "page"
REMEMBERED = 100_000  # answers that feedback is known to belong to: 20 MB
# the page takes nothing from elsewhere, and says so to the browser
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body is no JSON"},
    401: {"model": Refusal, "description": "Wrong or missing API key"},
    408: {"model": Refusal, "description": "The upload took too long"},
    413: {"model": Refusal, "description": "The body is too large"},
    422: {"model": Refusal, "description": "A field is wrong; the input is never repeated"},
    503: {"model": Refusal, "description": "Too many requests, or no champion yet: try again"},
    504: {"model": Refusal, "description": "No answer within the time limit"},
}


class ProductServer:
    """LitServe's server with our routes in place of its own."""

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        self.settings = settings
        self.api = ProductAPI(settings, run_folder)
        # LitServe's timeout drops what has waited; ours answers it
        self.lit = OneWorkerServer(
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
        # the door lets no request take longer than this; what SIGTERM finds inside is answered, however many wait
        self.lit.uvicorn_graceful_timeout = math.ceil(UPLOAD + settings.time_limit + GRACE) + 3
        self.board = Reader(run_folder)
        self.recorder = Recorder(settings.open_hours, "requests")
        self.minutes = Minutes(settings.folder / "minutes")
        self.refusals = Refusals(self.recorder.add)
        self.answered = Recent(REMEMBERED)
        self.telemetry = Telemetry(self.board.status, lambda: self.door.inside)
        self.door: Door
        self.app: FastAPI = self.lit.app
        self._dress()

    def _dress(self) -> None:
        self.app.title, self.app.version = "Rakuten product classifier", "1"
        self.app.router.routes[:] = [route for route in self.app.router.routes if not _is_of_litserve(route)]
        lit_lifespan = self.app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with lit_lifespan(app):
                with self._background():
                    yield

        self.app.router.lifespan_context = lifespan
        add_errors(self.app)
        add_docs(self.app)
        add_product_routes(self)
        add_server_routes(self)
        self.app.mount("/page", StaticFiles(directory=PAGE), name="page")
        self.app.add_middleware(self._make_door)

    def _make_door(self, app: Any) -> Door:
        self.door = Door(app, self.settings, self._left)
        return self.door

    @contextlib.contextmanager
    def _background(self) -> Any:
        """Runs in the API process only, from its start to its end."""
        self.recorder.start()
        watch = Watch(self.lit.response_buffer, self.board.alive, self.settings.time_limit)
        often = [watch.run(), every(5, self.minutes.tick), every(FLUSH, self.refusals.flush)]
        tasks = [asyncio.create_task(task) for task in often]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.refusals.flush()
            self.recorder.close()
            self.minutes.close()

    def _left(self, left: Left) -> None:
        self.telemetry.left(left)
        if left.path != PREDICT:
            return
        self.minutes.add(left)
        if left.status >= 400:
            self.refusals.add(left)
        else:
            self.answered.add(left.request_id)

    def record(self, record: dict[str, Any]) -> None:
        """Append to the prediction log, now."""
        self.recorder.add({"time": datetime.now(UTC).isoformat(), **record})


async def every(seconds: float, do: Callable[[], None]) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        do()


def _is_of_litserve(route: Any) -> bool:
    ours = ("/", "/lit/health", "/lit/info", PREDICT, "/docs", "/redoc")
    return getattr(route, "path", "") in ours


def security(settings: Settings) -> list[Any]:
    """What tells /openapi.json of the key. The door checks it."""
    return [Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if settings.api_key else []


def add_product_routes(server: ProductServer) -> None:
    """/predict and /feedback."""
    app, settings, board, key = server.app, server.settings, server.board, security(server.settings)
    handler = RegularRequestHandler(server.api, server.lit)

    @app.post(
        PREDICT, response_model=Prediction, responses=REFUSALS, dependencies=key, summary="The type code of a product"
    )
    async def predict(product: PredictRequest, request: Request) -> Response:
        try:
            asked = read_product(product, request.state.request_id, settings)
        except FieldError as error:
            fault = {"loc": ("body", error.field), "msg": str(error), "type": error.kind}
            raise RequestValidationError([fault]) from error
        if not board.alive():
            await until_alive(board.alive, settings.time_limit)
        answered: Answered = await handler.handle_request(asked, PredictRequest)
        request.state.reason, request.state.said = answered.reason, answered.said
        headers = {"Retry-After": RETRY_AFTER} if answered.status == 503 else None
        return Response(answered.body, answered.status, headers, "application/json")

    @app.post("/feedback", status_code=202, responses=REFUSALS, dependencies=key, summary="What a product really was")
    async def feedback(told: Feedback) -> Recorded:
        server.record({"kind": FEEDBACK, "request_id": told.request_id, "true_code": told.true_code})
        server.telemetry.told()
        return Recorded(recorded=True, known=told.request_id in server.answered)


def add_server_routes(server: ProductServer) -> None:
    """What the server says of itself, and the page."""
    app, settings, board, key = server.app, server.settings, server.board, security(server.settings)

    @app.get("/live", summary="The API process runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready", responses={503: {"description": "No"}}, summary="A worker holds a loaded champion")
    async def ready() -> JSONResponse:
        is_ready = board.status().state == READY
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/info", dependencies=key, summary="The champion: version, members, weights, metrics, labels; problems")
    async def info() -> dict[str, Any]:
        status = board.status()
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
        return PlainTextResponse(server.telemetry.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)
