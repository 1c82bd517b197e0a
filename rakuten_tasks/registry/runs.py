"""MLflow runs: one parent per training, one child per task. Tasks run in different pods, so run ids are passed on."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.entities import Run as MlflowRun

from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry.mlflow_adapter import PARENT_RUN, truncate_param, truncate_tag
from rakuten_tasks.registry.promotion import delete_uncommitted, is_committed
from rakuten_tasks.registry.tracking import RunLog, connect, experiment_id

EXECUTION = "execution"  # tag of a parent: its Flyte execution or local process
LOCAL = "local"
REPRODUCES = "reproduces"  # tag of a parent: the version that it trains again
FINGERPRINT = "fingerprint"  # tag of a parent: its catalogue's content hash, see data/fingerprint.py
ERROR = "error"
INTERRUPTED = "broken off"
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


def local_execution() -> str:
    """Return a name for this process that no process of another host and no later one with the same pid has."""
    return f"{LOCAL}/{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def start_parent(name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], execution: str = "") -> str:
    """Open the run of one training and return its id. parameters: a nested configuration.

    execution: its Flyte name; the open run of an earlier attempt of the same execution is continued. Empty: this
    process is the execution, and runs that dead processes of this machine left open are closed.
    """
    client = connect()
    earlier_runs = _open_runs(client, execution) if execution else []
    if not execution:
        _close_orphans(client)
        _close_at_exit()
    if earlier_runs:
        run = earlier_runs[0]
    else:
        texts = {key: truncate_tag(value) for key, value in {**tags, EXECUTION: execution or local_execution()}.items()}
        run = client.create_run(experiment_id(client), run_name=name, tags=texts)
    params = [Param(key, truncate_param(value)) for key, value in flatten(parameters).items()]
    client.log_batch(run.info.run_id, params=params)
    return run.info.run_id


def rename(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Change a run's name and add tags."""
    client = connect()
    client.update_run(run_id, name=name)
    for key, value in tags.items():
        client.set_tag(run_id, key, truncate_tag(value))


def log_pretrained(run_id: str, weights: Sequence[PretrainedWeights]) -> None:
    """Add tags that name the pretrained weights of a training."""
    client = connect()
    for item in weights:
        for key, value in item.to_dict().items():
            if value:
                client.set_tag(run_id, f"pretrained.{item.tag}.{key}", truncate_tag(value))


def finish_parent(run_id: str) -> None:
    """Close the run of a successful training, and runs that lost attempts at its tasks left open."""
    client = connect()
    _close_children(client, run_id)
    client.set_terminated(run_id, FINISHED)


def fail(reason: str, execution: str = "") -> list[str]:
    """Close the open runs of an execution (empty: of this process) as failed, with the reason. Returns their ids.

    Uncommitted versions are deleted. A training whose version is committed is finished, not failed.
    """
    client = connect()
    run_ids = [run.info.run_id for run in _open_runs(client, execution or local_execution())]
    for run_id in run_ids:
        _end(client, run_id, FAILED, reason)
    return run_ids


def _end(client: MlflowClient, run_id: str, status: str, reason: str) -> None:
    """Close a training's run. One whose version is committed has succeeded, even if its report has failed."""
    if is_committed(client, run_id):
        status, reason = FINISHED, f"after its version was registered: {reason}"
    _close_children(client, run_id)
    delete_uncommitted(client, run_id)
    client.set_tag(run_id, ERROR, truncate_tag(reason))
    client.set_terminated(run_id, status)


def log_to_parent(run_id: str) -> RunLog:
    """Return the log of the whole training."""
    return RunLog(connect(), run_id)


def fetch(run_id: str, path: str) -> Path:
    """Return a file or folder of a run's artifacts, for reading only: it may be the store's own."""
    connect()
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


@contextmanager
def child_run(parent_id: str, name: str) -> Iterator[RunLog]:
    """Open the run of one task. It is FAILED with the error if the block raises; an earlier attempt's run is closed.

    The parent stays open, as Flyte may retry the task.
    """
    client = connect()
    _close_children(client, parent_id, name)
    tags = {PARENT_RUN: parent_id}
    run_id = client.create_run(experiment_id(client), run_name=name, tags=tags).info.run_id
    try:
        yield RunLog(client, run_id)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))  # flytekit turns Ctrl-C into an exit
        reason = INTERRUPTED if interrupted else f"{type(error).__name__}: {error}"
        client.set_tag(run_id, ERROR, truncate_tag(reason))
        client.set_terminated(run_id, FAILED)
        raise
    client.set_terminated(run_id, FINISHED)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"photo": {"image_size": 48}} -> {"photo.image_size": 48}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value.value if isinstance(value, Enum) else value
    return flat


def _running(client: MlflowClient, condition: str) -> list[MlflowRun]:
    condition = f"{condition} and attributes.status = '{RUNNING}'"
    return list(client.search_runs([experiment_id(client)], condition, max_results=1000))


def _open_runs(client: MlflowClient, execution: str) -> list[MlflowRun]:
    return _running(client, f"tags.{EXECUTION} = '{execution}'")


def _close_children(client: MlflowClient, parent_id: str, name: str | None = None) -> None:
    for run in _running(client, f"tags.`{PARENT_RUN}` = '{parent_id}'"):
        if name in (None, run.info.run_name):
            client.set_terminated(run.info.run_id, KILLED)


def _close_orphans(client: MlflowClient) -> None:
    """Close open runs of dead processes of this machine, and this process's own, of an interrupted workflow."""
    own, host = local_execution(), f"{LOCAL}/{socket.gethostname()}/"
    for run in _running(client, f"tags.{EXECUTION} LIKE '{host}%'"):
        execution = run.data.tags[EXECUTION]
        if not execution.startswith(host):  # LIKE takes _ for any letter
            continue
        if execution == own or not _is_alive(execution):
            _end(client, run.info.run_id, KILLED, "its process was killed")


@cache
def _close_at_exit() -> None:
    """Register `_on_exit`, once: after Ctrl-C or SIGTERM no failure node runs."""
    atexit.register(_on_exit)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _on_exit() -> None:
    with suppress(Exception):  # the store may be what failed
        fail(INTERRUPTED)


def _is_alive(execution: str) -> bool:
    *_, pid, created = execution.split("/")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False
