"""Queries behind the dashboard. Each part fails alone, so that the others are still shown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
from croniter import croniter
from mlflow import MlflowClient
from mlflow.entities import Metric

from rakuten_tasks.registry.runs import ERROR, EXECUTION
from rakuten_tasks.registry.tracking import experiment_id
from rakuten_tasks.runtime.schedules import SCHEDULES

RUNS = 5
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
    """The last minutes of one server, oldest first."""

    requests: list[float]
    errors: float
    p50_ms: float
    p95_ms: float
    confidence: float | None
    last: datetime


@dataclass(frozen=True)
class LogSize:
    """Closed hours of the prediction log, and the lines that are still open."""

    files: int
    rows: int
    size: int
    open_lines: int


def last_runs(client: MlflowClient) -> list[TrainingRun]:
    """The latest trainings, newest first."""
    found = client.search_runs(
        [experiment_id(client)], f"tags.{EXECUTION} LIKE '%'", order_by=["attributes.start_time DESC"], max_results=RUNS
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
        for run in found
    ]


def traffic(client: MlflowClient) -> Traffic | None:
    """Of the server that was started last; None where none has answered yet."""
    servers = client.search_runs(
        [experiment_id(client)], "tags.kind = 'serving'", order_by=["attributes.start_time DESC"], max_results=1
    )
    if not servers:
        return None
    run = servers[0].info.run_id
    requests = _minutes(client, run, "requests")
    if not requests:
        return None
    last = {name: _minutes(client, run, name)[-1:] for name in ("latency_ms_p50", "latency_ms_p95", "mean_confidence")}
    value = {name: found[0].value if found else None for name, found in last.items()}
    return Traffic(
        [metric.value for metric in requests],
        sum(metric.value for metric in _minutes(client, run, "errors")),
        value["latency_ms_p50"] or 0.0,
        value["latency_ms_p95"] or 0.0,
        value["mean_confidence"],
        datetime.fromtimestamp(requests[-1].timestamp / 1000, UTC),
    )


def _minutes(client: MlflowClient, run: str, name: str) -> Sequence[Metric]:
    return sorted(client.get_metric_history(run, name), key=lambda metric: metric.step)[-MINUTES:]


def log_size(address: str, open_folder: Path) -> LogSize:
    """Rows are counted from the files' footers."""
    filesystem, root = fsspec.core.url_to_fs(address)
    filesystem.invalidate_cache()
    files = filesystem.glob(f"{root.rstrip('/')}/*-*-*/*.parquet", detail=True)
    rows = 0
    for path in files:
        with suppress(FileNotFoundError), filesystem.open(path, "rb") as file:  # hours age out of the log meanwhile
            rows += pq.ParquetFile(file).metadata.num_rows
    lines = 0
    for hour in open_folder.glob("*.jsonl"):
        with suppress(FileNotFoundError), hour.open("rb") as opened:  # and are closed
            lines += sum(1 for _ in opened)
    return LogSize(len(files), rows, sum(info["size"] for info in files.values()), lines)


def next_runs(now: datetime) -> dict[str, datetime]:
    """By launch plan, soonest first; they run only where they are activated."""
    moments = {name: croniter(cron, now).get_next(datetime) for name, cron in SCHEDULES.items()}
    return dict(sorted(moments.items(), key=lambda item: item[1]))
