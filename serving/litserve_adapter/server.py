"""LitServe's server, whose worker is forked from a preloaded process and so restarts within a second."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from fastapi import FastAPI, HTTPException
from litserve import LitAPI, LitServer
from litserve.connector import check_cuda_with_nvidia_smi
from litserve.loops import inference_worker
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus

from serving.litserve_adapter.reaper import PendingRequestReaper
from serving.litserve_adapter.request_queue import RequestQueueManager
from serving.schemas import InferenceRequest, InferenceResponse

# Modules of the worker: torch, torchvision and transformers alone take 4 s of a core to import.
PRELOADED = [
    "torchvision.models",
    "transformers",
    "serving.worker.inference",
    "serving.worker.mlflow_exporter",
    "serving.telemetry.log_writer",
]
WORKER_EXIT_SECONDS = 60.0  # seconds that a worker may take to write the prediction log
MONITOR_SECONDS = 0.3  # seconds between checks for a killed worker
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class SingleWorkerServer(LitServer):
    """A server with one API, one device, one worker, and no routes but /openapi.json."""

    is_stopping = False
    lost_api_process = False  # the API process ended before the server was stopped

    def __init__(self, api: LitAPI, shutdown_seconds: int) -> None:
        """shutdown_seconds: for the API process to finish the requests in flight."""
        super().__init__(
            api,
            # LitServe itself would import torch to find out: 480 MB in a process that needs none of it
            accelerator="cuda" if check_cuda_with_nvidia_smi() else "cpu",
            devices=1,
            timeout=False,  # it would drop a late request without a response
            restart_workers=True,
        )
        self.monitor_internal = MONITOR_SECONDS
        self.uvicorn_graceful_timeout = shutdown_seconds
        self.app.router.routes[:] = [
            route for route in self.app.router.routes if getattr(route, "path", "") == self.app.openapi_url
        ]

    def add_lifespan(self, context: Callable[[], AbstractContextManager]) -> None:
        """Enter a context in the API process at its start, and leave it at its end."""
        lit_lifespan = self.app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with lit_lifespan(app):
                with context():
                    yield

        self.app.router.lifespan_context = lifespan

    async def submit(self, request: InferenceRequest) -> InferenceResponse:
        """Send a request to the worker and return its response. Raises the reaper's HTTPException.

        The caller sets the time limit: LitServe drops a response whose request was cancelled.
        """
        uid = uuid.uuid4().hex
        item = self.response_buffer[uid] = ResponseBufferItem(asyncio.Event())
        queue = self._get_request_queue(self.lit_api.api_path)
        try:
            queue.put((self.app.response_queue_id, uid, time.monotonic(), request), request.photo is not None)
            await item.event.wait()
        except (EOFError, OSError) as error:  # the queue's process has ended
            raise HTTPException(500, "internal error") from error
        finally:
            del self.response_buffer[uid]
        response, status = item.response
        if status == LitAPIStatus.ERROR:
            raise response
        return response

    def reaper(self, is_alive: Callable[[], bool]) -> PendingRequestReaper:
        """Create the reaper of this server's pending requests."""
        return PendingRequestReaper(self.response_buffer, is_alive)

    def _init_manager(self, num_api_servers: int) -> Any:
        """Start LitServe's manager as a process that does not outlive this one, with our queue in place of its own."""
        original, multiprocessing.Manager = multiprocessing.Manager, _start_manager
        try:
            manager = super()._init_manager(num_api_servers)
        finally:
            multiprocessing.Manager = original
        self.litapi_request_queues[self.lit_api.api_path] = manager.RequestQueue()
        return manager

    def _start_server(self, *args: Any, **kwargs: Any) -> Any:
        """Start the API process and watch it: without it the port would be taken and nobody respond."""
        processes = super()._start_server(*args, **kwargs)

        def watch() -> None:
            connection.wait([process.sentinel for process in processes.values()])
            if not self.is_stopping:
                self.lost_api_process = True
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
        return processes

    def launch_inference_worker(self, lit_api: LitAPI) -> list[BaseProcess]:
        """Start the first worker."""
        forkserver.set_forkserver_preload(PRELOADED)
        return [self.launch_single_inference_worker(lit_api, 0)]

    def launch_single_inference_worker(self, lit_api: LitAPI, worker_id: int) -> BaseProcess:
        """Start a worker, also in place of a killed one."""
        (device,) = self.devices
        self.workers_setup_status[f"{lit_api.api_path.strip('/')}_{worker_id}"] = WorkerSetupStatus.STARTING
        process = multiprocessing.get_context("forkserver").Process(
            target=inference_worker,
            args=(
                lit_api,
                device if isinstance(device, str) else device[0],
                worker_id,
                self._get_request_queue(lit_api.api_path),
                self._transport,
                self.workers_setup_status,
                self._callback_runner,
                self.restart_workers,
            ),
            name="inference-worker",
        )
        process.start()
        # LitServe waits 5 s at the end; the prediction log may take longer to write
        join = process.join
        process.join = lambda timeout=None: join(WORKER_EXIT_SECONDS)  # type: ignore[method-assign]
        return process

    def _perform_graceful_shutdown(self, *args: Any) -> None:
        """End LitServe's worker monitor first: it would restart the worker that is being stopped."""
        self.is_stopping = True
        # in a thread, as the signal interrupted this one in a call that still holds its connection to the event
        setter = threading.Thread(target=self._shutdown_event.set)
        setter.start()
        setter.join(5)
        time.sleep(2 * MONITOR_SECONDS)
        super()._perform_graceful_shutdown(*args)


def _start_manager() -> RequestQueueManager:
    manager = RequestQueueManager(ctx=multiprocessing.get_context())
    manager.start(die_with_parent)
    return manager


def die_with_parent() -> None:
    """SIGKILL this process when its parent is gone: the process with the queues holds the port too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop_helper_processes() -> None:
    """Wait for multiprocessing's own processes, which would otherwise end a moment after this one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
