"""Export of every minute's metrics to the server's MLflow run. MLflow may be down."""

from __future__ import annotations

import json
import logging
import socket
import threading
from pathlib import Path

from mlflow.entities import Metric

from rakuten_tasks.registry.tracking import connect, experiment_id
from serving.telemetry.minutes import MINUTE

log = logging.getLogger(__name__)

MAX_FILES = 7 * 24 * 60  # files that wait for MLflow at most: a week
RUN_ID = "run_id"


class MLflowExporter:
    """A thread's work: sends the files of MinuteMetrics, and deletes each after MLflow has accepted it."""

    def __init__(self, folder: Path, run_folder: Path, port: int, stop: threading.Event) -> None:
        """folder: of MinuteMetrics; port: distinguishes this server's run from others of the same host."""
        self._folder, self._stop = folder, stop
        self._run_name = f"serving on {socket.gethostname()}:{port}"
        self._run_id_file = run_folder / RUN_ID  # outlives a killed worker, not the server

    def run(self) -> None:
        """Send files until `stop` is set, then end the run."""
        while not self._stop.wait(MINUTE / 6):
            self._export()
        self._export()
        try:
            if self._run_id_file.exists():
                connect().set_terminated(self._run_id_file.read_text())
        except Exception as error:  # whatever a store that is down raises
            log.warning("the run of this server stays open: %s", type(error).__name__)

    def _export(self) -> None:
        try:
            for path in sorted(self._folder.glob("*.json")):
                minute = int(path.name.partition(".")[0]) + 1
                metrics = [
                    Metric(name, float(value), round(minute * MINUTE * 1000), minute)
                    for name, value in json.loads(path.read_text()).items()
                ]
                connect().log_batch(self._run_id(), metrics)
                path.unlink()
        except Exception as error:  # whatever a store that is down raises
            log.warning("metrics of minutes wait until MLflow can be reached: %s", type(error).__name__)
            for path in sorted(self._folder.glob("*.json"))[:-MAX_FILES]:
                path.unlink()

    def _run_id(self) -> str:
        if not self._run_id_file.exists():
            client = connect()
            run = client.create_run(experiment_id(client), run_name=self._run_name, tags={"kind": "serving"})
            self._run_id_file.write_text(run.info.run_id)
        return self._run_id_file.read_text()
