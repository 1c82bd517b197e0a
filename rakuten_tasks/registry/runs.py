"""MLflow runs: one parent a training, one child a task. Run ids are passed on, as tasks run in different pods."""

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
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry.promotion import delete_uncommitted, is_committed
from rakuten_tasks.registry.tracking import RunLog, connect, experiment_id

EXECUTION = "execution"  # tag of a parent: the Flyte execution, or the local process, that it belongs to
LOCAL = "local"
REPRODUCES = "reproduces"  # tag of a parent: the version that it trains again
FINGERPRINT = "fingerprint"  # tag of a parent: what its catalogue held, of data/fingerprint.py
ERROR = "error"
INTERRUPTED = "broken off"
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


def local_execution() -> str:
    """The name of this process, told apart from those of other hosts and of a later process of the same number."""
    return f"{LOCAL}/{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def start_parent(name: str, parameters: Mapping[str, Any], tags: Mapping[str, str], execution: str = "") -> str:
    """Open the run of one training. parameters: a nested configuration. -> run id

    execution: Flyte's name of it; what an earlier attempt of the same execution opened is gone on with. Empty: this
    process is the execution. Runs that dead processes of this machine left open are closed.
    """
    client = connect()
    earlier = _open_runs(client, execution) if execution else []
    if not execution:
        _close_orphans(client)
        _close_at_exit()
    cut = {
        key: value[:MAX_TAG_VAL_LENGTH] for key, value in {**tags, EXECUTION: execution or local_execution()}.items()
    }
    run = earlier[0] if earlier else client.create_run(experiment_id(client), run_name=name, tags=cut)
    values = flatten(parameters)
    params = [Param(key, str(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in values.items()]
    client.log_batch(run.info.run_id, params=params)
    return run.info.run_id


def rename(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Give a run another name and more tags."""
    client = connect()
    for key, value in {MLFLOW_RUN_NAME: name, **tags}.items():
        client.set_tag(run_id, key, value[:MAX_TAG_VAL_LENGTH])


def log_pretrained(run_id: str, weights: Sequence[PretrainedWeights]) -> None:
    """Tags that say which pretrained weights a training begins with."""
    client = connect()
    for item in weights:
        for key, value in item.to_dict().items():
            if value:
                client.set_tag(run_id, f"pretrained.{item.tag}.{key}", str(value)[:MAX_TAG_VAL_LENGTH])


def finish_parent(run_id: str) -> None:
    """Close the run of a training that has succeeded, and what lost attempts at its tasks left open."""
    client = connect()
    _close_children(client, run_id)
    client.set_terminated(run_id, FINISHED)


def fail(reason: str, execution: str = "") -> list[str]:
    """Close the open runs of an execution (empty: of this process) as failed, each with the reason. -> their ids

    What they left in the registry unsettled is withdrawn; one whose version is settled is finished, not failed.
    """
    client = connect()
    failed = []
    for run in _open_runs(client, execution or local_execution()):
        _end(client, run.info.run_id, FAILED, reason)
        failed.append(run.info.run_id)
    return failed


def _end(client: MlflowClient, run_id: str, status: str, reason: str) -> None:
    """A training whose version is settled has succeeded, whatever became of its report."""
    if is_committed(client, run_id):
        status, reason = FINISHED, f"after its version was registered: {reason}"
    _close_children(client, run_id)
    delete_uncommitted(client, run_id)
    client.set_tag(run_id, ERROR, reason[:MAX_TAG_VAL_LENGTH])
    client.set_terminated(run_id, status)


def log_to_parent(run_id: str) -> RunLog:
    """What concerns the whole training."""
    return RunLog(connect(), run_id)


def fetch(run_id: str, path: str) -> Path:
    """A file or folder of a run's artifacts, only for reading: it may be the store's own."""
    connect()
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


@contextmanager
def child_run(parent_id: str, name: str) -> Iterator[RunLog]:
    """The run of one task, FAILED with the error if the block raises; an earlier attempt's, left open, is closed.

    Whether the parent has failed is not known here: Flyte may try the task again.
    """
    client = connect()
    _close_children(client, parent_id, name)
    tags = {MLFLOW_PARENT_RUN_ID: parent_id}
    run_id = client.create_run(experiment_id(client), run_name=name, tags=tags).info.run_id
    try:
        yield RunLog(client, run_id)
    except BaseException as error:
        broken_off = isinstance(error, (KeyboardInterrupt, SystemExit))  # flytekit turns Ctrl-C into an exit
        reason = INTERRUPTED if broken_off else f"{type(error).__name__}: {error}"
        client.set_tag(run_id, ERROR, reason[:MAX_TAG_VAL_LENGTH])
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


def _search(client: MlflowClient, condition: str) -> list[MlflowRun]:
    condition = f"{condition} and attributes.status = '{RUNNING}'"
    return list(client.search_runs([experiment_id(client)], condition, max_results=1000))


def _open_runs(client: MlflowClient, execution: str) -> list[MlflowRun]:
    return _search(client, f"tags.{EXECUTION} = '{execution}'")


def _close_children(client: MlflowClient, parent_id: str, name: str | None = None) -> None:
    for run in _search(client, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"):
        if name in (None, run.info.run_name):
            client.set_terminated(run.info.run_id, KILLED)


def _close_orphans(client: MlflowClient) -> None:
    """A process that is killed closes nothing. This one's own open runs are of a workflow that was broken off."""
    own = local_execution()
    for run in _search(client, f"tags.{EXECUTION} LIKE '{LOCAL}/{socket.gethostname()}/%'"):
        execution = run.data.tags[EXECUTION]
        if execution == own or not _is_alive(execution):
            _end(client, run.info.run_id, KILLED, "its process was killed")


@cache
def _close_at_exit() -> None:
    """Once: a run that is broken off by Ctrl-C or SIGTERM goes through no failure node."""
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
