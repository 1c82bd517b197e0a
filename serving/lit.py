"""LitServe's server, whose worker is forked from a process that has imported everything: back in a second."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

from litserve import LitAPI, LitServer
from litserve.loops import inference_worker
from litserve.utils import WorkerSetupStatus

# What a worker imports: torch, torchvision, transformers and scikit-learn alone take 4 s of a core.
PRELOADED = ["serving.answers", "serving.recorder", "rakuten_tasks.registry.champion"]


class OneWorkerServer(LitServer):
    """One API, one device, one worker."""

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
        return process

    def _perform_graceful_shutdown(self, *args: Any) -> None:
        """First the watch over the worker ends: it would take the one that is told to stop for a killed one."""
        # in a thread, as this one's connection to the event is still held by the wait that the signal broke off
        setting = threading.Thread(target=self._shutdown_event.set)
        setting.start()
        setting.join(5)
        time.sleep(2 * self.monitor_internal)
        super()._perform_graceful_shutdown(*args)
