"""A real server in a process of its own, and many clients at once."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pandas as pd

from rakuten_tasks.monitoring.columns import FEEDBACK, PREDICTION, SCHEMA
from rakuten_tasks.monitoring.prediction_log import stream_log
from tests.support.catalogues import photo_bytes

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Server:
    """A running app. log: its output. began: seconds since 1970."""

    process: subprocess.Popen
    url: str
    var: Path
    log: Path
    began: float = field(default_factory=time.time)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        # httpx refuses to encode what a hostile client may send
        return httpx.post(self.url + path, content=json.dumps(body), headers=headers, timeout=60, **options)

    def predict(self, body: Any, **options: Any) -> httpx.Response:
        return self.post("/predict", body, **options)

    def at_once(self, bodies: list[Any], clients: int = 16) -> list[httpx.Response]:
        """Send all requests with so many clients, and return the responses in order."""
        limits = httpx.Limits(max_connections=clients)
        with httpx.Client(timeout=60, limits=limits) as client, ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda body: client.post(self.url + "/predict", json=body), bodies))

    def wait_until(self, happened: Callable[[], bool], seconds: float = 10.0) -> float:
        """Wait, and return the seconds that it took. Fails after `seconds` with the output of the server."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            try:
                if happened():
                    return time.monotonic() - started
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"did not happen within {seconds} s; the server printed:\n{self.log.read_text()}")

    def is_ready(self) -> bool:
        return self.get("/ready").status_code == 200

    def serves(self, version: int) -> bool:
        return self.get("/info").json()["model_version"] == str(version)

    def run(self, store: MlflowClient) -> Run:
        """Return this server's one run in MLflow, where other servers may have theirs."""
        experiment = store.get_experiment_by_name("rakuten-classifier").experiment_id
        name = f"serving on {socket.gethostname()}:{self.url.rpartition(':')[2]}"
        # a port may have been another server's before
        own_run = f"attributes.run_name = '{name}' AND attributes.start_time >= {round(1000 * self.began)}"
        (run,) = store.search_runs([experiment], f"tags.kind = 'serving' AND {own_run}")
        return run

    def stop(self) -> int:
        """Send SIGTERM to the main process, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def processes(self) -> list[int]:
        """Return the main process and its descendants."""
        return family(self.process.pid)


@contextmanager
def serving(var: Path, *, wait: bool | None = True, **settings: Any) -> Iterator[Server]:
    """A server of this environment with these settings, stopped at the end.

    wait: until it is ready; False: until it is alive; None: not at all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    var.mkdir(parents=True, exist_ok=True)
    log = var / f"server-{port}.log"
    environment = {
        **os.environ,
        "RAKUTEN_VAR": str(var),
        "SERVE_PORT": str(port),
        "SERVE_POLL_SECONDS": "1",
        **settings,
    }
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "serving"], env=environment, stdout=output, stderr=output)
    server = Server(process, f"http://127.0.0.1:{port}", var, log)
    processes: list[int] = []
    try:
        if wait is not None:
            server.wait_until(server.is_ready if wait else lambda: server.get("/live").status_code == 200, 90)
            processes = server.processes()
        yield server
    finally:
        if process.poll() is None:
            server.stop()
        for pid in processes:  # what a failed test leaves behind
            if Path(f"/proc/{pid}").exists() and pid != process.pid:
                os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def base64_photo(number: int = 0, side: int = 64) -> str:
    return base64.b64encode(photo_bytes(number, side)).decode()


def memory(pids: list[int]) -> int:
    """Resident bytes of these processes together."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: list[int]) -> float:
    """Processor time of these processes together."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def read_log(
    address: str, open_folder: Path | None = None, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """All records of a prediction log in [since, until), by time, with the columns of SCHEMA."""
    parts = list(stream_log(address, SCHEMA.names, open_folder, since, until))
    records = pd.concat(parts) if parts else SCHEMA.empty_table().to_pandas()
    return records.sort_values("time", kind="stable").reset_index(drop=True)


def predictions(records: pd.DataFrame) -> pd.DataFrame:
    """The predictions among the records, each with the last code that feedback gave."""
    feedback = records.loc[records["kind"] == FEEDBACK, ["request_id", "true_code"]]
    predicted = records[records["kind"] == PREDICTION].drop(columns="true_code")
    return predicted.merge(feedback.drop_duplicates("request_id", keep="last"), on="request_id", how="left")


def accuracy(predicted: pd.DataFrame) -> float | None:
    """Share of correct ones among the `predictions` with feedback; None if none has feedback."""
    labelled = predicted[predicted["true_code"].notna()]
    return float((labelled["predicted"] == labelled["true_code"]).mean()) if len(labelled) else None
