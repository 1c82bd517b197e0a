"""MLflow names beyond its documented API; tests/unit/registry/test_mlflow_adapter.py checks each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.store.entities import PagedList
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

if not mlflow.__version__.startswith("3."):
    raise ImportError(f"mlflow {mlflow.__version__}: this package is written for 3.x, check mlflow_adapter.py")

PARENT_RUN = MLFLOW_PARENT_RUN_ID  # tag of a child run

T = TypeVar("T")


def truncate_param(value: object) -> str:
    """Return the value as text that fits into a run's parameter."""
    return str(value)[:MAX_PARAM_VAL_LENGTH]


def truncate_tag(value: object) -> str:
    """Return the value as text that fits into a run's tag."""
    return str(value)[:MAX_TAG_VAL_LENGTH]


def all_pages(search: Callable[[str | None], PagedList[T]]) -> list[T]:
    """Return the results of all pages. search: page token -> page."""
    page = search(None)
    results = list(page)
    while page.token:
        page = search(page.token)
        results += page
    return results


def model_folders(artifacts: Path) -> list[Path]:
    """Return the folders of logged models below an experiment's artifacts on disk; each is named as its model's id."""
    return list(artifacts.glob("models/m-*"))
