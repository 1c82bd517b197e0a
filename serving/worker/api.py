"""The worker: LitServe's API, whose `setup` runs in a process of its own with torch and MLflow."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import litserve

from serving.litserve_adapter.batch_loop import BatchLoop
from serving.schemas import NOT_READY, InferenceRequest, InferenceResponse
from serving.settings import Settings
from serving.worker_status import StatusWriter

if TYPE_CHECKING:
    from serving.worker.inference import PredictionEvent

log = logging.getLogger(__name__)

PHOTOS_AT_ONCE = 4  # on processors, where a photo takes up to 0.1 s and more of them together take no less each
PUBLISH_SECONDS = 1.0  # seconds between updates of the counters in the worker's status


class ProductAPI(litserve.LitAPI):
    """API of LitServe's worker. It is pickled into the worker, so it holds nothing but settings until `setup`."""

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        """run_folder: shared by the processes of this server; empty at the start."""
        super().__init__(max_batch_size=settings.batch, loop=BatchLoop(settings.batch, settings.batch_wait_ms / 1000))
        self.settings, self.run_folder = settings, run_folder
        self.time_limit = settings.time_limit

    def setup(self, device: str) -> None:
        """Start the threads and return at once: until one of them has loaded the champion, requests get 503."""
        if not self.run_folder.is_dir():
            os._exit(0)  # the server was stopped while this process was starting
        import torch

        from serving.telemetry.log_writer import PredictionLogWriter
        from serving.worker.bundle_cache import BundleCache
        from serving.worker.mlflow_exporter import MLflowExporter
        from serving.worker.model_source import ModelSource
        from serving.worker.reloader import ModelReloader

        settings = self.settings
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.photos_at_once = settings.batch if torch.cuda.is_available() else PHOTOS_AT_ONCE
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        self._reset_counters(StatusWriter(self.run_folder))
        self._stop = threading.Event()
        self._reloader = ModelReloader(
            ModelSource(settings.model), BundleCache(settings.folder / "bundles"), self._status
        )
        self._log_writer = PredictionLogWriter(
            settings.open_hours, "predictions", (settings.log_address, timedelta(days=settings.log_days))
        )
        exporter = MLflowExporter(settings.folder / "minutes", self.run_folder, settings.port, self._stop)
        self._threads = [
            threading.Thread(target=self._reloader.run, args=(settings.poll_seconds, self._stop), daemon=True),
            threading.Thread(target=exporter.run, daemon=True),
        ]
        self._log_writer.start()
        for thread in self._threads:
            thread.start()
        if self._status.replaces_another:  # the requests in the queue wait for the champion
            self._reloader.first_poll_done.wait(self.time_limit)

    def _reset_counters(self, status: StatusWriter) -> None:
        """Go on from the counters of the worker before this one."""
        self._status, self._published_at = status, 0.0
        self._batches: Counter[str] = Counter(status.status.batches)
        self._members: Counter[str] = Counter(status.status.members)
        self._skipped_photos = status.status.skipped_photos
        self._events: list[PredictionEvent] = []

    def predict(self, requests: list[InferenceRequest]) -> Iterator[tuple[list[int], list[InferenceResponse]]]:
        """Yield numbers of the (N,) requests and their responses, those that need no photo first.

        All are of the same champion. `after_batch` has to be called after each step.
        """
        from serving.worker.inference import predict_batch

        loaded = self._reloader.current
        if loaded is None:
            responses = [InferenceResponse.error(503, NOT_READY, NOT_READY, r.request_id) for r in requests]
            yield list(range(len(requests))), responses
            return
        self._batches[str(len(requests))] += 1
        for predicted in predict_batch(loaded, requests, self.settings.abstain_below, self.photos_at_once):
            self._events += predicted.events
            yield predicted.rows, predicted.responses

    def after_batch(self) -> None:
        """Count and log the products of a step, after their responses were sent."""
        now, events, self._events = datetime.now(UTC), self._events, []
        for event in events:
            self._members.update(event.members)
            self._skipped_photos += event.skipped_photo
            self._log_writer.add(
                partial(event.to_log_row, now, self.settings.log_text), len(event.product.photo or b"")
            )
        self.on_idle()

    def on_idle(self) -> None:
        """Publish the counters if they changed, at most once a second."""
        published = self._status.status
        changed = (self._batches, self._members) != (published.batches, published.members)
        if changed and time.monotonic() - self._published_at > PUBLISH_SECONDS:
            self._publish_counts()

    def close(self) -> None:
        """Write the prediction log and the last minute's metrics. The process ends after this."""
        self._publish_counts()
        self._log_writer.close()
        self._stop.set()
        for thread in self._threads:
            thread.join(2.0)

    def _publish_counts(self) -> None:
        members = dict(self._members)
        self._status.publish(batches=dict(self._batches), members=members, skipped_photos=self._skipped_photos)
        self._published_at = time.monotonic()
