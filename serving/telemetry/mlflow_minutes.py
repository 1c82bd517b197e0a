"""Metrics of each minute as a file, and the thread that sends the files to an MLflow run. MLflow may be down."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from serving.web.middleware import RequestRecord
    from serving.worker.model_source import ModelSource

log = logging.getLogger(__name__)

MINUTE = 60.0
KEPT = 7 * 24 * 60  # files that wait for MLflow at most: a week
DRAFT = ".draft"
RUN_ID = "run_id"


class MinuteMetrics:
    """What the API process counts: requests by status, errors, latency percentiles in milliseconds, and what was said.

    It outlives the workers. The open minute lies on disk too, as a draft that is written again every few seconds; the
    next server takes over what one that was killed has left. One thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of this server alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        for left in folder.glob(f"*{DRAFT}"):
            left.rename(left.with_suffix(".json"))
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
        """Write the minute as far as it has come, and on to the next."""
        if self._seconds:
            draft = self._write()
            draft.rename(draft.with_suffix(".json"))
        self._begin()

    def _write(self) -> Path:
        path = self._folder / f"{self._minute}.{os.getpid()}{DRAFT}"
        written = path.with_suffix(".part")  # which nobody takes for a minute
        written.write_text(json.dumps(self._aggregate()))
        return written.replace(path)

    def _aggregate(self) -> dict[str, float]:
        p50, p95, p99 = np.percentile(self._seconds, (50, 95, 99)) * 1000
        errors = sum(count for status, count in self._statuses.items() if status >= 400)
        figures: dict[str, float] = {"requests": len(self._seconds), "errors": errors}
        figures |= {"latency_ms_p50": p50, "latency_ms_p95": p95, "latency_ms_p99": p99}
        figures |= {f"status.{status}": count for status, count in self._statuses.items()}
        if count := len(self._confidences):
            figures |= {"predictions": count, "abstained": self._abstained}
            figures["mean_confidence"] = float(np.mean(self._confidences))
            figures |= {f"class_share.{code}": n / count for code, n in self._classes.items()}
        return figures


class MLflowExporter:
    """Takes the files to MLflow. A file goes only when MLflow has taken its figures."""

    def __init__(self, registry: ModelSource, folder: Path, run_folder: Path, port: int, stop: threading.Event) -> None:
        """port: tells this server's run from those of others on the same host."""
        self._registry, self._folder, self._stop = registry, folder, stop
        self._run_name = f"serving on {socket.gethostname()}:{port}"
        self._run_id_file = run_folder / RUN_ID  # outlives a killed worker, not the server

    def run(self) -> None:
        """Until `stop`: the thread's body."""
        while not self._stop.wait(MINUTE / 6):
            self._ship()
        self._ship()
        self._end()

    def _ship(self) -> None:
        try:
            for path in sorted(self._folder.glob("*.json")):
                moment = (int(path.name.partition(".")[0]) + 1) * MINUTE
                self._registry.log(self._run_id(), json.loads(path.read_text()), moment)
                path.unlink()
        except Exception as error:  # whatever a store that is down raises
            log.warning("minutes' metrics wait until MLflow answers: %s", type(error).__name__)
            for path in sorted(self._folder.glob("*.json"))[:-KEPT]:
                path.unlink()

    def _run_id(self) -> str:
        if not self._run_id_file.exists():
            self._run_id_file.write_text(self._registry.open_run(self._run_name, {"kind": "serving"}))
        return self._run_id_file.read_text()

    def _end(self) -> None:
        try:
            if self._run_id_file.exists():
                self._registry.close_run(self._run_id_file.read_text())
        except Exception as error:
            log.warning("the run of this server stays open: %s", type(error).__name__)
