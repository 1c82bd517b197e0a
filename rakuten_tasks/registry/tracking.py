"""Connection to the MLflow store."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rakuten_tasks.storage.paths import var_folder

EXPERIMENT = "rakuten-classifier"
SQLITE = "sqlite:///"
# Retries of a request: locally an unreachable server is an error after 15 s. A pod waits for 8 minutes (0, 4, 8, 16,
# 32, 64 and three times 120 s), as Flyte does not wait at all between the attempts at a task.
RETRIES, POD_RETRIES = "3", "10"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # else clients fetch artifacts from the object store itself, whose address only the server may reach
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def flyte_execution() -> str:
    """Return the name of the Flyte execution that this pod belongs to; empty in a local run."""
    return os.environ.get("FLYTE_INTERNAL_EXECUTION_ID", "")


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or else a sqlite store in the folder RAKUTEN_VAR (default: ./var).

    Raises LookupError in a pod without MLFLOW_TRACKING_URI: a store of its own would be deleted with it.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        database = sqlite_file(uri)
        return sqlite_uri(database) if database else uri
    if flyte_execution():
        raise LookupError(
            "this pod has no address of an MLflow server: register the tasks with MLFLOW_TRACKING_URI set to an "
            "address that pods reach (no sqlite file, no localhost)"
        )
    return sqlite_uri(var_folder() / "mlflow" / "mlflow.db")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite address, None for another address. Raises ValueError if it names no file, or more."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import URL, make_url  # half a second, which pods with a server's address save
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:
        url = URL.create("sqlite")
    path = url.database or ""
    if url.host or "?" in uri or path in ("", ":memory:") or path.startswith("file:"):
        raise ValueError(f"MLFLOW_TRACKING_URI={uri!r}: write {SQLITE}FILE, with %3F for a ? and %25 for a %")
    return Path(path).absolute()


def sqlite_uri(database: Path) -> str:
    """Return the address of a file, of which SQLAlchemy decodes % and cuts ? off."""
    if not re.search("[%?]", str(database)):
        return f"{SQLITE}{database}"
    from sqlalchemy import URL

    # of an address with sqlite:// MLflow creates the folder without decoding its name, beside the right one
    return URL.create("sqlite+pysqlite", database=str(database)).render_as_string()


def store_exists() -> bool:
    """Return whether a sqlite store's file exists; True for a server, which is not asked."""
    database = sqlite_file(tracking_uri())
    return database is None or database.exists()


def connect() -> MlflowClient:
    """Return a client of the tracking store; creates a sqlite store that does not exist yet (8 s).

    Sets MLflow's process-wide tracking address too: parts of MLflow read only that.
    """
    retries = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": POD_RETRIES if flyte_execution() else RETRIES}
    for name, value in (retries | DEFAULTS).items():
        os.environ.setdefault(name, value)
    for name in ("mlflow.store", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    return _open(uri)


@contextmanager
def registry_lock() -> Iterator[None]:
    """Lock the registry of a sqlite store for one process, so that the champion compared with is the one replaced."""
    database = sqlite_file(tracking_uri())
    if database is None:
        yield
        return
    with FileLock(f"{database}.gate.lock"):
        yield


@cache
def _open(uri: str) -> MlflowClient:
    with warnings.catch_warnings():
        # MLflow 3.17 still uses a loader that SQLAlchemy 2.1 deprecates
        warnings.filterwarnings("ignore", "The ``noload`` loader", DeprecationWarning)
        database = sqlite_file(uri)
        if database is None:
            return _with_experiment(MlflowClient(uri), artifacts=None)
        database = database.resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that create the same sqlite store at once destroy it
        with FileLock(f"{database}.lock"):
            if not database.exists():
                _create(database)
            return _with_experiment(MlflowClient(uri), artifacts=(database.parent / "artifacts").as_uri())


def _create(database: Path) -> None:
    """Create the tables in a draft file and rename it: an interrupted creation leaves no incomplete store."""
    draft = database.with_name(f"{database.name}.draft")
    draft.unlink(missing_ok=True)
    MlflowClient(sqlite_uri(draft)).search_experiments()
    draft.rename(database)


def _with_experiment(client: MlflowClient, artifacts: str | None) -> MlflowClient:
    """Create the experiment if it is missing. artifacts: their address; None: the tracking server's choice."""
    if client.get_experiment_by_name(EXPERIMENT) is None:
        try:
            client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another client has created it meanwhile
                raise
    return client


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the experiment of all runs and models."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise LookupError(f"{client.tracking_uri} has no experiment {EXPERIMENT}: get the client from connect()")
    return experiment.experiment_id


def git_commit() -> str:
    """Return this code's commit, with -dirty if files differ; in an image, which has no git, GIT_COMMIT."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
