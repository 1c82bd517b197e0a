"""What a stack has stored: read before a service is killed, and compared with what is there after its next start."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient

from rakuten_tasks.storage.local_files import hash_folder
from tests.support.stack.compose import Stack

# the rows that the API has logged: kind, request, class or true class
LOGGED = """
import pathlib, pandas as pd
from rakuten_tasks.monitoring.prediction_log import stream_log
var = pathlib.Path("/var/lib/rakuten")
names = ["kind", "request_id", "predicted", "true_code"]
parts = list(stream_log(str(var / "prediction_log"), names, var / "serving/open_hours"))
rows = pd.concat(parts) if parts else pd.DataFrame(columns=names)
columns = rows[names].convert_dtypes().astype("string").fillna("")
print(columns.to_json(orient="values"))
"""
# the windows that the drift watch has judged, with what it decided
CHECKS = """
import json, pathlib
files = sorted(pathlib.Path("/var/lib/rakuten/monitoring/history").rglob("*.json"))
print(json.dumps([[file.name, file.read_text()] for file in files]))
"""


@dataclass(frozen=True)
class StoredData:
    """Every item is comparable: what stands in an earlier one must stand in a later one."""

    versions: frozenset[tuple[Any, ...]]  # version, its run, its state, its aliases
    runs: frozenset[tuple[Any, ...]]  # id, state, and number of its metrics' values
    artifacts: frozenset[tuple[str, str]]  # a version's bundle and a training's artifacts: name, hash of the content
    log_rows: frozenset[tuple[str, ...]]
    drift_checks: frozenset[tuple[str, ...]]
    samples: frozenset[tuple[str, ...]]  # of Prometheus: series, moment, value

    def missing_from(self, later: StoredData) -> dict[str, set]:
        """What the later one lacks, by kind; empty where nothing was lost."""
        lost = {item.name: set(getattr(self, item.name) - getattr(later, item.name)) for item in fields(self)}
        return {name: items for name, items in lost.items() if items}


def read_stored_data(stack: Stack, until: float) -> StoredData:
    """All of a stack whose services run. until: samples of Prometheus up to this moment, in seconds since 1970."""
    client = MlflowClient()
    versions = [v for model in client.search_registered_models() for v in registered_versions(client, model.name)]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if run.info.status != "RUNNING"]
    return StoredData(
        versions=frozenset((v.name, v.version, v.run_id, v.status, *v.aliases) for v in versions),
        runs=frozenset((run.info.run_id, run.info.status, *sorted(run.data.metrics.items())) for run in runs),
        artifacts=frozenset(_artifacts(versions)),
        log_rows=frozenset(map(tuple, stack.execute("api-fast", LOGGED))),
        drift_checks=frozenset(map(tuple, stack.execute("drift-watch", CHECKS))),
        samples=frozenset(_samples(stack, until)),
    )


def registered_versions(client: MlflowClient, model: str) -> list[Any]:
    """Of one model, with their aliases."""
    return [client.get_model_version(model, v.version) for v in client.search_model_versions(f"name = '{model}'")]


def query_prometheus(stack: Stack, query: str, at: float | None = None) -> list[dict[str, Any]]:
    """The result of an instant query."""
    response = stack.get("prometheus", "/api/v1/query", params={"query": query, "time": at or time.time()})
    assert response.status_code == 200, response.text
    return response.json()["data"]["result"]


def _samples(stack: Stack, until: float) -> list[tuple[str, ...]]:
    series = query_prometheus(stack, '{job="api"}[2h]', until)
    return [(str(sorted(one["metric"].items())), *map(str, value)) for one in series for value in one["values"]]


def _artifacts(versions: list[Any]) -> list[tuple[str, str]]:
    found = []
    for version in versions:
        for address in (f"models:/{version.name}/{version.version}", f"runs:/{version.run_id}/"):
            with TemporaryDirectory() as folder:
                mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder)
                found.append((address, hash_folder(Path(folder))))
    return found
