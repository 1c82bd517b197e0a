"""Fixtures shared by several test files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.pods.services import s3_bucket

if TYPE_CHECKING:
    from mlflow import MlflowClient


def pytest_configure(config: pytest.Config) -> None:
    """What Flyte leaves in the temporary folder, gigabytes in a session, goes with the session."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays where pytest has it
    get_temp_dir()  # multiprocessing takes its own away later than this, so it is to lie elsewhere
    folder = tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = folder.name
    config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    """A real sqlite store, made once a session (8 s): give your models names of their own."""
    from rakuten_tasks.registry.tracking import connect  # MLflow takes 3 s to import, most tests do without

    database = tmp_path_factory.mktemp("var") / "mlflow" / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        yield connect()


@pytest.fixture(scope="session")
def local_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A var/ for workflows that are run here, so that nothing is taken from the cache of another session."""
    from rakuten_tasks.runtime import local_cache
    from rakuten_tasks.storage.paths import cache_folder

    folder = tmp_path_factory.mktemp("runs") / "var"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAKUTEN_VAR", str(folder))
        local_cache.use(cache_folder())
        yield folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty s3 bucket, served on this machine."""
    with s3_bucket(monkeypatch) as (address, _):
        yield address
