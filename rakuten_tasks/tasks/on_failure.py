"""Workflow failure handlers: mark the MLflow run as failed with the reason, even if a pod was killed."""

from __future__ import annotations

from flytekit.types.error.error import FlyteError

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import execution
from rakuten_tasks.runtime.stage import stage

UNKNOWN = "the workflow failed without a message: see the execution in Flyte's console"


@stage(pods.SMALL)
def record_failed_training(
    source: str, config: TrainingConfig, model: str, report: str, err: FlyteError | None = None
) -> None:
    """Mark this execution's run in MLflow as failed, with the reason."""
    runs.fail(err.message if err else UNKNOWN, execution())


@stage(pods.SMALL)
def record_failed_reproduction(
    version: int, model: str, source: str, report: str, err: FlyteError | None = None
) -> None:
    """As record_failed_training."""
    runs.fail(err.message if err else UNKNOWN, execution())
