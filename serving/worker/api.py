"""The worker: LitServe's API whose `setup` runs in a process of its own, beside torch and MLflow."""

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
from serving.litserve_adapter.status import Worker
from serving.schemas import Answered, Asked, Prediction, PredictRequest
from serving.settings import Settings
from serving.telemetry.mlflow_minutes import Shipper

if TYPE_CHECKING:
    from serving.worker.inference import Observed

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

        from serving.telemetry.log_writer import Recorder
        from serving.worker.bundle_cache import BundleShelf
        from serving.worker.model_source import Registry
        from serving.worker.reloader import ChampionKeeper

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        torch.set_num_threads(self.settings.threads or cores())
        self._board = Worker(self.run_folder)
        self._batches: Counter[str] = Counter(self._board.status.batches)
        self._told, self._untold = 0.0, False
        self._observed: list[Observed] = []
        self._stop = threading.Event()
        registry = Registry(self.settings.model)
        self._keeper = ChampionKeeper(registry, BundleShelf(self.settings.folder / "bundles"), self._board)
        self._recorder = Recorder(
            self.settings.open_hours,
            "predictions",
            (self.settings.log_address, timedelta(days=self.settings.log_days)),
        )
        minutes = self.settings.folder / "minutes"
        shipper = Shipper(registry, minutes, self.run_folder, self.settings.port, self._stop)
        self._threads = [
            threading.Thread(target=self._keeper.run, args=(self.settings.poll_seconds, self._stop), daemon=True),
            threading.Thread(target=shipper.run, daemon=True),
        ]
        self._recorder.start()
        for thread in self._threads:
            thread.start()
        if self._board.replaces_another:  # what is queued waits for the champion
            self._keeper.tried.wait(self.time_limit)

    def decode_request(self, request: PredictRequest) -> Any:
        """The route in `app` has decoded it."""
        return request

    def predict(self, batch: list[Asked]) -> list[Answered]:
        """(N,) requests -> (N,) answers of one and the same champion."""
        from serving.worker.inference import answer_batch, refusal

        loaded = self._keeper.current
        if loaded is None:
            self._observed = []
            return [refusal(503, NOT_READY, request_id=asked.request_id) for asked in batch]
        answers, self._observed = answer_batch(loaded, batch, self.settings.abstain_below)
        self._batches[str(len(batch))] += 1
        return answers

    def encode_response(self, output: Answered) -> Prediction:
        """The route in `app` hands the answer on as it is."""
        raise NotImplementedError

    def answered(self) -> None:
        """The batch's answers are on their way: now its records."""
        for observed in self._observed:
            photo = observed.asked.photo or b""
            self._recorder.add(partial(self._record, observed, datetime.now(UTC)), len(photo))
        self._observed = []
        self._untold = True
        if time.monotonic() - self._told > TELL:
            self._tell()

    def idle(self) -> None:
        """Nothing waits: what was counted is told, also where no request comes after it."""
        if self._untold and time.monotonic() - self._told > TELL:
            self._tell()

    def close(self) -> None:
        """Write all that waits. The process ends after this."""
        self._tell()
        self._recorder.close()
        self._stop.set()  # the last minute goes to MLflow too
        for thread in self._threads:
            thread.join(2.0)

    def _tell(self) -> None:
        self._board.tell(batches=dict(self._batches))
        self._told, self._untold = time.monotonic(), False

    def _record(self, observed: Observed, moment: datetime) -> dict[str, Any]:
        from rakuten_tasks.monitoring.columns import PREDICTION
        from rakuten_tasks.monitoring.features import traits
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
            **traits(observed.loaded.predictor, product, observed.scores, observed.row, observed.projected),
            **texts,
        }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
