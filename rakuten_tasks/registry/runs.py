"""MLflow runs: one parent per training, one child per task. Tasks run in different pods, so run ids are passed on."""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
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
from rakuten_tasks.registry.run_log import ERROR, RunLog, TaskLog
from rakuten_tasks.registry.tracking import connect, experiment_id, flyte_execution
from rakuten_tasks.training.termination import is_interruption, raise_on_sigterm

EXECUTION = "execution"  # tag of a parent: its Flyte execution or local process
LOCAL = "local"
REPRODUCES = "reproduces"  # tag of a parent: the version that it trains again
FINGERPRINT = "fingerprint"  # tag of a parent: its catalogue's content hash, see data/fingerprint.py
INTERRUPTED = "broken off"
# No task of a training in Flyte opens or closes a run: all attempts at the tasks that open none, at their timeouts
SILENCE = timedelta(hours=48)
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


def local_execution() -> str:
    """Return a name for this process that no process of another host and no later one with the same pid has."""
    return f"{LOCAL}/{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def start_parent(name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], execution: str = "") -> str:
    """Open the run of one training and return its id. parameters: a nested configuration.

    execution: its Flyte name; the open run of an earlier attempt of the same execution is continued. Empty: this
    process is the execution. Runs that earlier trainings left open are closed.
    """
    client = connect()
    earlier_runs = _open_runs(client, execution) if execution else []
    close_orphans(client)
    if not execution:
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
    if ERROR in client.get_run(run_id).data.tags:  # of the execution that this one has recovered
        client.delete_tag(run_id, ERROR)
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
    return RunLog(join(run_id), run_id)


def join(run_id: str) -> MlflowClient:
    """Make a training's run that of this pod's execution: Flyte recovers a training under another name.

    A run that close_orphans took for lost, as its pods waited for machines, is open again.
    """
    client, execution = connect(), flyte_execution()
    run = client.get_run(run_id)
    if execution and (run.data.tags.get(EXECUTION) != execution or run.info.status == KILLED):
        client.set_tag(run_id, EXECUTION, execution)
        client.update_run(run_id, status=RUNNING)
    return client


def fetch(run_id: str, path: str) -> Path:
    """Return a file or folder of a run's artifacts, for reading only: it may be the store's own."""
    connect()
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


@contextmanager
def child_run(parent_id: str, name: str) -> Iterator[RunLog]:
    """Open the run of one task. It is FAILED with the error if the block raises, KILLED after SIGTERM or Ctrl-C.

    An earlier attempt's run is closed. The parent stays open, as Flyte may retry the task.
    """
    raise_on_sigterm()
    client = join(parent_id)
    _close_children(client, parent_id, name)
    tags = {PARENT_RUN: parent_id}
    run_log = TaskLog(client, client.create_run(experiment_id(client), run_name=name, tags=tags).info.run_id)
    try:
        yield run_log
    except BaseException as error:
        if is_interruption(error):
            run_log.end(KILLED, INTERRUPTED)
        else:
            run_log.end(FAILED, f"{type(error).__name__}: {error}")
        raise
    run_log.end(FINISHED)


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


def close_orphans(client: MlflowClient, is_over: Callable[[str], bool] = lambda name: False) -> int:
    """Close open trainings of dead processes of this machine, this process's own, and of lost executions of Flyte.

    After an abort, or a failure of Flyte itself, no failure node runs. An execution is lost if it is_over, or after
    SILENCE. Returns the number of closed trainings.
    """
    reasons = {
        run.info.run_id: _why_lost(client, run, is_over) for run in _running(client, f"tags.{EXECUTION} LIKE '%'")
    }
    lost = {run_id: reason for run_id, reason in reasons.items() if reason}
    for run_id, reason in lost.items():
        _end(client, run_id, KILLED, reason)
    return len(lost)


def _why_lost(client: MlflowClient, run: MlflowRun, is_over: Callable[[str], bool]) -> str:
    """Return why an open training will not go on; empty if it may."""
    execution, own = run.data.tags[EXECUTION], local_execution()
    if execution.startswith(f"{LOCAL}/"):
        ours = execution.startswith(f"{LOCAL}/{socket.gethostname()}/")
        return "its process was killed" if ours and (execution == own or not _is_alive(execution)) else ""
    if is_over(execution):
        return "its Flyte execution ended without a failure node"
    condition = f"tags.`{PARENT_RUN}` = '{run.info.run_id}'"
    children = client.search_runs([experiment_id(client)], condition, max_results=1000)
    times = [at for child in children for at in (child.info.start_time, child.info.end_time)]
    last = max(filter(None, [run.info.start_time, *times]))
    if last < (time.time() - SILENCE.total_seconds()) * 1000:
        return (
            f"its Flyte execution ended without a failure node: no task for {SILENCE.total_seconds() / 3600:.0f} hours"
        )
    return ""


@cache
def _close_at_exit() -> None:
    """Register `_on_exit`, once: after Ctrl-C or SIGTERM no failure node runs."""
    atexit.register(_on_exit)
    raise_on_sigterm()


def _on_exit() -> None:
    with suppress(Exception):  # the store may be what failed
        fail(INTERRUPTED)


def _is_alive(execution: str) -> bool:
    *_, pid, created = execution.split("/")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False
