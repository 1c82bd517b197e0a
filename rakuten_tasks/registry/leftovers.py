"""What a training that was cut short left in the registry."""

from __future__ import annotations

from mlflow import MlflowClient

from rakuten_tasks.registry.gate import VERDICT
from rakuten_tasks.registry.tracking import experiment_id


def withdraw(client: MlflowClient, run_id: str) -> list[int]:
    """Delete what a training that came to nothing has left: versions without a verdict, models without a version.

    -> the numbers of the versions
    """
    gone = []
    for found in client.search_model_versions(f"run_id='{run_id}'"):
        if VERDICT not in found.tags:
            client.delete_model_version(found.name, found.version)
            gone.append(int(found.version))
    drop_half_models(client, run_id)
    return gone


def drop_half_models(client: MlflowClient, run_id: str) -> None:
    """An attempt that was cut short leaves a model without a version; what it uploaded stays in the store, unnamed."""
    experiments = [experiment_id(client)]
    registered = {found.source for found in client.search_model_versions(f"run_id='{run_id}'")}
    for model in client.search_logged_models(experiments, filter_string=f"source_run_id = '{run_id}'"):
        if f"models:/{model.model_id}" not in registered:
            client.delete_logged_model(model.model_id)
