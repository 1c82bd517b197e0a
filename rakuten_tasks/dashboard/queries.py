"""Queries behind the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
from croniter import croniter
from mlflow import MlflowClient
from mlflow.entities import Metric

from rakuten_tasks.monitoring.prediction_log import CLOSED
from rakuten_tasks.registry.runs import ERROR, EXECUTION
from rakuten_tasks.registry.tracking import experiment_id
from rakuten_tasks.runtime.schedules import SCHEDULES
from rakuten_tasks.storage.addresses import list_files, open_address

MAX_RUNS = 5
MINUTES = 30


@dataclass(frozen=True)
class TrainingRun:
    """One training. seconds: None while it runs."""

    name: str
    status: str
    started: datetime
    seconds: float | None
    weighted_f1: float | None
    error: str


@dataclass(frozen=True)
class Traffic:
    """The last minutes of one server. requests: one number a minute, oldest first."""

    requests: list[float]
    errors: float
    p50_ms: float
    p95_ms: float
    confidence: float | None
    last: datetime


@dataclass(frozen=True)
class LogSize:
    """Size of the prediction log: closed hours, and lines of the open hour. size: in bytes."""

    files: int
    rows: int
    size: int
    open_lines: int


def last_runs(client: MlflowClient) -> list[TrainingRun]:
    """Return the latest trainings, newest first."""
    runs = client.search_runs(
        [experiment_id(client)],
        f"tags.{EXECUTION} LIKE '%'",
        order_by=["attributes.start_time DESC"],
        max_results=MAX_RUNS,
    )
    return [
        TrainingRun(
            run.info.run_name or run.info.run_id,
            run.info.status,
            datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None,
            run.data.metrics.get("pool_weighted_f1"),
            run.data.tags.get(ERROR, ""),
        )
        for run in runs
    ]


def traffic(client: MlflowClient) -> Traffic | None:
    """Return the traffic of the server that was started last; None if no server has served a request."""
    servers = client.search_runs(
        [experiment_id(client)], "tags.kind = 'serving'", order_by=["attributes.start_time DESC"], max_results=1
    )
    if not servers:
        return None
    run_id = servers[0].info.run_id
    requests = _metric_history(client, run_id, "requests")
    if not requests:
        return None
    last: dict[str, float | None] = {}
    for name in ("latency_ms_p50", "latency_ms_p95", "mean_confidence"):
        history = _metric_history(client, run_id, name)
        last[name] = history[-1].value if history else None
    return Traffic(
        [metric.value for metric in requests],
        sum(metric.value for metric in _metric_history(client, run_id, "errors")),
        last["latency_ms_p50"] or 0.0,
        last["latency_ms_p95"] or 0.0,
        last["mean_confidence"],
        datetime.fromtimestamp(requests[-1].timestamp / 1000, UTC),
    )


def _metric_history(client: MlflowClient, run_id: str, name: str) -> Sequence[Metric]:
    """Return the last MINUTES values of a metric, oldest first."""
    return sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.step)[-MINUTES:]


def log_size(address: str, open_folder: Path) -> LogSize:
    """Measure a prediction log; rows are counted from the footers of the Parquet files."""
    filesystem, root = open_address(address)
    filesystem.invalidate_cache()
    files = list_files(filesystem, root, CLOSED)
    rows = lines = 0
    for hour in files:
        with suppress(FileNotFoundError), filesystem.open(hour, "rb") as file:  # the hour may expire meanwhile
            rows += pq.ParquetFile(file).metadata.num_rows
    for path in open_folder.glob("*.jsonl"):
        with suppress(FileNotFoundError), path.open("rb") as file:  # the hour may be closed meanwhile
            lines += sum(1 for _ in file)
    return LogSize(len(files), rows, sum(info["size"] for info in files.values()), lines)


def next_runs(now: datetime) -> dict[str, datetime]:
    """Return the next run of each launch plan, soonest first. Only activated launch plans run."""
    runs = {name: croniter(cron, now).get_next(datetime) for name, cron in SCHEDULES.items()}
    return dict(sorted(runs.items(), key=lambda item: item[1]))
