"""Metrics of each minute as a file, which the worker exports to MLflow."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rakuten_tasks.storage.local_files import write_atomically

if TYPE_CHECKING:
    from serving.schemas import PredictionSummary
    from serving.web.middleware import RequestRecord

MINUTE = 60.0  # seconds
DRAFT = ".draft"


class MinuteMetrics:
    """Requests by status, errors, latency percentiles in milliseconds, confidences and classes of each minute.

    The API process counts, as it outlives the workers. The open minute is on disk too, as a draft that is written
    again every few seconds; the next server finishes the draft of a killed one. Not thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of this server alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for draft in folder.glob(f"*{DRAFT}"):
            draft.rename(draft.with_suffix(".json"))
        self._begin()

    def _begin(self) -> None:
        self._minute, self._changed = int(time.time() // MINUTE), False
        self._requests: list[tuple[int, float, PredictionSummary | None]] = []  # status, seconds, prediction

    def add(self, request: RequestRecord) -> None:
        """Count one request to /predict."""
        if int(time.time() // MINUTE) != self._minute:
            self.close()
        self._requests.append((request.status, request.seconds, request.prediction))
        self._changed = True

    def tick(self) -> None:
        """Write the minute if it is over, else its draft."""
        if int(time.time() // MINUTE) != self._minute:
            self.close()
        elif self._changed:
            self._write()
            self._changed = False

    def close(self) -> None:
        """Finish the minute's file and begin the next minute."""
        if self._requests:
            draft = self._write()
            draft.rename(draft.with_suffix(".json"))
        self._begin()

    def _write(self) -> Path:
        path = self._folder / f"{self._minute}.{os.getpid()}{DRAFT}"
        write_atomically(path, json.dumps(self._aggregate()), durable=False)
        return path

    def _aggregate(self) -> dict[str, float]:
        statuses = Counter(status for status, _, _ in self._requests)
        p50, p95, p99 = np.percentile([seconds for _, seconds, _ in self._requests], (50, 95, 99)) * 1000
        metrics: dict[str, float] = {
            "requests": len(self._requests),
            "errors": sum(count for status, count in statuses.items() if status >= 400),
            "latency_ms_p50": p50,
            "latency_ms_p95": p95,
            "latency_ms_p99": p99,
            **{f"status.{status}": count for status, count in statuses.items()},
        }
        if predictions := [prediction for _, _, prediction in self._requests if prediction]:
            metrics["predictions"] = len(predictions)
            metrics["abstained"] = sum(prediction.abstained for prediction in predictions)
            metrics["mean_confidence"] = float(np.mean([prediction.confidence for prediction in predictions]))
            classes = Counter(prediction.code for prediction in predictions)
            metrics |= {f"class_share.{code}": count / len(predictions) for code, count in classes.items()}
        return metrics
