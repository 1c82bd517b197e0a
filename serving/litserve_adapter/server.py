"""LitServe's server, whose worker is forked from a preloaded process and so restarts within a second."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.managers import SyncManager
from multiprocessing.process import BaseProcess
from typing import Any

from litserve import LitAPI, LitServer
from litserve.loops import inference_worker
from litserve.utils import WorkerSetupStatus

# What a worker imports: torch, torchvision, transformers and scikit-learn alone take 4 s of a core.
PRELOADED = ["serving.worker.inference", "serving.telemetry.log_writer", "rakuten_tasks.registry.versions"]

WORKER_ENDS = 60.0  # seconds that a worker may take to write what it has answered

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def die_with_parent() -> None:
    """SIGKILL for this process when its parent is gone: the one with the queues holds the port too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _manager() -> SyncManager:
    manager = SyncManager(ctx=multiprocessing.get_context())
    manager.start(die_with_parent)
    return manager


class SingleWorkerServer(LitServer):
    """One API, one device, one worker."""

    stopping = False
    lost_api = False  # the API process ended before it was told to

    def _init_manager(self, num_api_servers: int) -> Any:
        """LitServe's own, whose process does not outlive this one."""
        plain, multiprocessing.Manager = multiprocessing.Manager, _manager
        try:
            return super()._init_manager(num_api_servers)
        finally:
            multiprocessing.Manager = plain

    def _start_server(self, *args: Any, **kwargs: Any) -> Any:
        """LitServe's own, and a look at the API process: without it the port would be held and nobody answer."""
        processes = super()._start_server(*args, **kwargs)

        def wait() -> None:
            connection.wait([process.sentinel for process in processes.values()])
            if not self.stopping:
                self.lost_api = True
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, daemon=True).start()
        return processes

    def launch_inference_worker(self, lit_api: LitAPI) -> list[BaseProcess]:
        """At the start."""
        multiprocessing.forkserver.set_forkserver_preload(PRELOADED)
        return [self.launch_single_inference_worker(lit_api, 0)]

    def launch_single_inference_worker(self, lit_api: LitAPI, worker_id: int) -> BaseProcess:
        """Also in place of a killed one."""
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
        # LitServe gives it 5 s; photos of answers may still wait for their place in the prediction log
        join = process.join
        process.join = lambda timeout=None: join(WORKER_ENDS)  # type: ignore[method-assign]
        return process

    def _perform_graceful_shutdown(self, *args: Any) -> None:
        """First the watch over the worker ends: it would take the one that is told to stop for a killed one."""
        self.stopping = True
        # in a thread, as this one's connection to the event is still held by the wait that the signal broke off
        setting = threading.Thread(target=self._shutdown_event.set)
        setting.start()
        setting.join(5)
        time.sleep(2 * self.monitor_internal)
        super()._perform_graceful_shutdown(*args)
