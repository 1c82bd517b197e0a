"""The worker: LitServe's API, whose `setup` runs in a process of its own with torch and MLflow."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litserve

from serving.litserve_adapter.batch_loop import BatchLoop
from serving.litserve_adapter.status import StatusWriter
from serving.schemas import InferenceRequest, InferenceResponse, Prediction, PredictRequest
from serving.settings import Settings
from serving.telemetry.mlflow_minutes import MLflowExporter

if TYPE_CHECKING:
    from serving.worker.inference import PredictionEvent

log = logging.getLogger(__name__)

NOT_READY = "no champion is loaded yet: GET /info says why"
TELL = 1.0  # seconds between counts told to the API process


class ProductAPI(litserve.LitAPI):
    """Travels to the worker by pickle, so it holds nothing but settings until `setup`."""

    def __init__(self, settings: Settings, run_folder: Path) -> None:
        """run_folder: where this server's processes meet; empty at the start."""
        super().__init__(max_batch_size=settings.batch, loop=BatchLoop(settings.batch, settings.batch_wait_ms / 1000))
        self.settings, self.run_folder = settings, run_folder
        self.time_limit = settings.time_limit

    def setup(self, device: str) -> None:
        """Returns at once: a thread loads the champion, and meanwhile the server answers that it is not ready."""
        if not self.run_folder.is_dir():
            os._exit(0)  # the server was stopped while this process was starting
        import torch

        from serving.telemetry.log_writer import PredictionLogWriter
        from serving.worker.bundle_cache import BundleCache
        from serving.worker.model_source import ModelSource
        from serving.worker.reloader import ModelReloader

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        torch.set_num_threads(self.settings.threads or cores())
        self._status = StatusWriter(self.run_folder)
        self._batches: Counter[str] = Counter(self._status.status.batches)
        self._published_at, self._status_dirty = 0.0, False
        self._observed: list[PredictionEvent] = []
        self._stop = threading.Event()
        registry = ModelSource(self.settings.model)
        self._reloader = ModelReloader(registry, BundleCache(self.settings.folder / "bundles"), self._status)
        self._recorder = PredictionLogWriter(
            self.settings.open_hours,
            "predictions",
            (self.settings.log_address, timedelta(days=self.settings.log_days)),
        )
        minutes = self.settings.folder / "minutes"
        shipper = MLflowExporter(registry, minutes, self.run_folder, self.settings.port, self._stop)
        self._threads = [
            threading.Thread(target=self._reloader.run, args=(self.settings.poll_seconds, self._stop), daemon=True),
            threading.Thread(target=shipper.run, daemon=True),
        ]
        self._recorder.start()
        for thread in self._threads:
            thread.start()
        if self._status.replaces_another:  # what is queued waits for the champion
            self._reloader.first_poll_done.wait(self.time_limit)

    def decode_request(self, request: PredictRequest) -> Any:
        """The route in `app` has decoded it."""
        return request

    def predict(self, batch: list[InferenceRequest]) -> list[InferenceResponse]:
        """(N,) requests -> (N,) answers of one and the same champion."""
        from serving.worker.inference import error_response, predict_batch

        loaded = self._reloader.current
        if loaded is None:
            self._observed = []
            return [error_response(503, NOT_READY, request_id=asked.request_id) for asked in batch]
        answers, self._observed = predict_batch(loaded, batch, self.settings.abstain_below)
        self._batches[str(len(batch))] += 1
        return answers

    def encode_response(self, output: InferenceResponse) -> Prediction:
        """The route in `app` hands the answer on as it is."""
        raise NotImplementedError

    def after_batch(self) -> None:
        """The batch's answers are on their way: now its records."""
        for observed in self._observed:
            photo = observed.asked.photo or b""
            self._recorder.add(partial(self._record, observed, datetime.now(UTC)), len(photo))
        self._observed = []
        self._status_dirty = True
        if time.monotonic() - self._published_at > TELL:
            self._publish_counts()

    def on_idle(self) -> None:
        """Nothing waits: what was counted is told, also where no request comes after it."""
        if self._status_dirty and time.monotonic() - self._published_at > TELL:
            self._publish_counts()

    def close(self) -> None:
        """Write all that waits. The process ends after this."""
        self._publish_counts()
        self._recorder.close()
        self._stop.set()  # the last minute goes to MLflow too
        for thread in self._threads:
            thread.join(2.0)

    def _publish_counts(self) -> None:
        self._status.publish(batches=dict(self._batches))
        self._published_at, self._status_dirty = time.monotonic(), False

    def _record(self, observed: PredictionEvent, moment: datetime) -> dict[str, Any]:
        from rakuten_tasks.monitoring.columns import PREDICTION
        from rakuten_tasks.monitoring.features import drift_features
        from rakuten_tasks.preprocessing.product import Product

        asked, champion = observed.asked, observed.loaded.champion
        product = Product(asked.designation, asked.description, asked.photo)
        texts = {"designation": asked.designation, "description": asked.description} if self.settings.log_text else {}
        return {
            "time": moment.isoformat(),
            "kind": PREDICTION,
            "request_id": asked.request_id,
            "status": 200,
            "model": champion.model,
            "version": champion.version,
            "abstained": observed.abstained,
            **drift_features(observed.loaded.predictor, product, observed.scores, observed.row, observed.projected),
            **texts,
        }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
