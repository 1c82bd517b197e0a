"""Which tasks run networks, and which are never cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NETWORKS = {
    "extract_features_on_gpu",
    "train_network",
    "train_network_on_gpus",
    "evaluate_test",
    "register",
    "predict_shard",
}


# They ask or change what is outside: the catalogue as it is now, the registry, MLflow.
NEVER_CACHED = {
    "open_run", "reopen", "prepare_ingestion", "train_members", "assemble", "register", "report_training", "compare",
    "record_failed_training", "record_failed_reproduction", "fetch_champion", "predict_shard", "write_submission",
    "check_drift", "alert", "record_retraining", "publish_version",
}  # fmt: skip


def short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def task_function(task: Any) -> Callable[..., Any]:
    """Without Flyte around it; to the type checker a task is the function that it was made of."""
    return task.task_function
