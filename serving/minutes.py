"""A minute's figures as one file, and the thread that hands the files on to an MLflow run. MLflow may be down."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from serving.answers import Observed
    from serving.registry import Registry

log = logging.getLogger(__name__)

MINUTE = 60.0
KEPT = 7 * 24 * 60 * 2  # files that wait for MLflow at most: a week of two processes
RUN_ID = "run_id"


class MinuteFiles:
    """Writes what a process counted, once a minute. One thread at a time."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._source = folder, f"{source}-{os.getpid()}"
        self.minute = int(time.time() // MINUTE)

    def over(self) -> bool:
        """Whether the minute that is being counted has ended."""
        return int(time.time() // MINUTE) != self.minute

    def write(self, figures: Mapping[str, float]) -> None:
        """The figures of the minute, and on to the next."""
        if figures:
            path = self._folder / f"{self.minute}.{self._source}.json"
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(dict(figures)))
            draft.replace(path)
        self.minute = int(time.time() // MINUTE)


class AnswerMinutes:
    """What the worker counts: answers, their mean confidence and the class mix."""

    def __init__(self, folder: Path) -> None:
        self._files = MinuteFiles(folder, "answers")
        self._confidences: list[float] = []
        self._classes: Counter[int] = Counter()
        self._abstained = 0

    def add(self, observed: Observed) -> None:
        """Count one answer."""
        self.tick()
        self._confidences.append(float(observed.scores.confidence[observed.row]))
        self._classes[int(observed.scores.predicted[observed.row])] += 1
        self._abstained += observed.abstained

    def tick(self) -> None:
        """Write the minute if it is over."""
        if self._files.over():
            self.close()

    def close(self) -> None:
        """Write the minute as far as it has come."""
        count = len(self._confidences)
        if count:
            shares = {f"class_share.{code}": n / count for code, n in self._classes.items()}
            mean = float(np.mean(self._confidences))
            figures = {"predictions": count, "mean_confidence": mean, "abstained": self._abstained, **shares}
            self._files.write(figures)
        else:
            self._files.write({})
        self._confidences, self._classes, self._abstained = [], Counter(), 0


class RequestMinutes:
    """What the API process counts: requests by status, errors, latency percentiles in milliseconds."""

    def __init__(self, folder: Path) -> None:
        self._files = MinuteFiles(folder, "requests")
        self._statuses: Counter[int] = Counter()
        self._seconds: list[float] = []

    def add(self, status: int, seconds: float) -> None:
        """Count one request to /predict."""
        self.tick()
        self._statuses[status] += 1
        self._seconds.append(seconds)

    def tick(self) -> None:
        """Write the minute if it is over."""
        if self._files.over():
            self.close()

    def close(self) -> None:
        """Write the minute as far as it has come."""
        figures: dict[str, float] = {}
        if self._seconds:
            p50, p95, p99 = np.percentile(self._seconds, (50, 95, 99)) * 1000
            errors = sum(count for status, count in self._statuses.items() if status >= 400)
            figures = {"requests": len(self._seconds), "errors": errors}
            figures |= {"latency_ms_p50": p50, "latency_ms_p95": p95, "latency_ms_p99": p99}
            figures |= {f"status.{status}": count for status, count in self._statuses.items()}
        self._files.write(figures)
        self._statuses, self._seconds = Counter(), []


class Shipper:
    """Takes the files to MLflow. A file goes only when MLflow has taken its figures."""

    def __init__(self, registry: Registry, folder: Path, run_folder: Path, stop: threading.Event) -> None:
        self._registry, self._folder, self._stop = registry, folder, stop
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
            name = f"serving on {socket.gethostname()}"
            self._run_id_file.write_text(self._registry.open_run(name, {"kind": "serving"}))
        return self._run_id_file.read_text()

    def _end(self) -> None:
        try:
            if self._run_id_file.exists():
                self._registry.close_run(self._run_id_file.read_text())
        except Exception as error:
            log.warning("the run of this server stays open: %s", type(error).__name__)
