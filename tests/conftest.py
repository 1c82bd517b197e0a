"""Fixtures shared by several test files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    """A real sqlite store, made once a session (8 s): give your models names of their own."""
    from rakuten_tasks.registry.tracking import connect  # MLflow takes 3 s to import, most tests do without

    database = tmp_path_factory.mktemp("var") / "mlflow" / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        yield connect()
