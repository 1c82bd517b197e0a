"""Logging into a run of MLflow."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from rakuten_tasks.registry.mlflow_adapter import truncate_tag

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

log = logging.getLogger(__name__)

Request = Callable[[], object]
ERROR = "error"  # tag of a run: why it failed
PATIENCE = 60.0  # seconds after which the end of a task's run sends nothing more to a server that is away
PNG_SCALE = 2  # pixels of a PNG per pixel of the figure: sharp on today's screens


@dataclass(frozen=True)
class RunLog:
    """Log of one run. Each call is one request, so pass many metrics at once."""

    client: MlflowClient
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log at most 1000 numbers by name, at one step of a training."""
        now = round(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._send(partial(self.client.log_batch, self.run_id, metrics))

    def figure(self, figure: Figure, name: str) -> None:
        """Log the figure as name.html, which is interactive, and as name.png."""
        self._send(partial(self.client.log_figure, self.run_id, figure, f"{name}.html"))
        self._send(partial(self._log_png, figure, f"{name}.png"))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with its content, under its own name."""
        self._send(partial(self.client.log_artifact, self.run_id, str(path), folder))

    def dictionary(self, values: Mapping[str, Any], name: str) -> None:
        """Log a JSON or YAML file; the name's ending decides."""
        self._send(partial(self.client.log_dict, self.run_id, dict(values), name))

    def _send(self, request: Request) -> None:
        request()

    def _log_png(self, figure: Figure, name: str) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "setDaemon", DeprecationWarning)  # kaleido 0.2.1, when it starts
            self.client.log_figure(self.run_id, figure, name, save_kwargs={"scale": PNG_SCALE})


@dataclass(frozen=True)
class TaskLog(RunLog):
    """Log of a task's run, which only shows what the task does: no error of a request fails the task.

    After the first error all requests wait for the end of the run, so that a training waits for MLflow only once.
    """

    _unsent: list[Request] = field(default_factory=list)

    def end(self, status: str, error: str = "") -> None:
        """Close the run and send what has waited; what cannot be sent is left out with a warning."""
        started = time.monotonic()
        requests: list[Request] = [partial(self.client.set_terminated, self.run_id, status), *self._unsent]
        if error:
            requests.insert(0, partial(self.client.set_tag, self.run_id, ERROR, truncate_tag(error)))
        for request in requests:
            try:
                request()
            except Exception as failure:
                log.warning("MLflow run %s lacks a part of its log: %s", self.run_id, failure)
                if time.monotonic() - started > PATIENCE:
                    return

    def _send(self, request: Request) -> None:
        if not self._unsent:
            try:
                request()
                return
            except Exception as error:
                log.warning("MLflow run %s gets the rest when its task ends: %s", self.run_id, error)
        self._unsent.append(request)
