"""Metrics of each minute as a file, which the worker exports to MLflow."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rakuten_tasks.local_files import write_atomically

if TYPE_CHECKING:
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
        self._statuses: Counter[int] = Counter()
        self._seconds: list[float] = []
        self._confidences: list[float] = []
        self._classes: Counter[int] = Counter()
        self._abstained = 0

    def add(self, record: RequestRecord) -> None:
        """Count one request to /predict."""
        if int(time.time() // MINUTE) != self._minute:
            self.close()
        self._changed = True
        self._statuses[record.status] += 1
        self._seconds.append(record.seconds)
        if record.prediction and record.status == 200:
            self._confidences.append(record.prediction.confidence)
            self._classes[record.prediction.code] += 1
            self._abstained += record.prediction.abstained

    def tick(self) -> None:
        """Write the minute if it is over, else its draft."""
        if int(time.time() // MINUTE) != self._minute:
            self.close()
        elif self._changed:
            self._write()
            self._changed = False

    def close(self) -> None:
        """Finish the minute's file and begin the next minute."""
        if self._seconds:
            draft = self._write()
            draft.rename(draft.with_suffix(".json"))
        self._begin()

    def _write(self) -> Path:
        path = self._folder / f"{self._minute}.{os.getpid()}{DRAFT}"
        write_atomically(path, json.dumps(self._aggregate()), durable=False)
        return path

    def _aggregate(self) -> dict[str, float]:
        p50, p95, p99 = np.percentile(self._seconds, (50, 95, 99)) * 1000
        errors = sum(count for status, count in self._statuses.items() if status >= 400)
        metrics: dict[str, float] = {"requests": len(self._seconds), "errors": errors}
        metrics |= {"latency_ms_p50": p50, "latency_ms_p95": p95, "latency_ms_p99": p99}
        metrics |= {f"status.{status}": count for status, count in self._statuses.items()}
        if count := len(self._confidences):
            metrics |= {"predictions": count, "abstained": self._abstained}
            metrics["mean_confidence"] = float(np.mean(self._confidences))
            metrics |= {f"class_share.{code}": n / count for code, n in self._classes.items()}
        return metrics
