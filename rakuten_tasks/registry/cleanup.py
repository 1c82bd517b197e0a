"""Clean-up after registrations that were interrupted."""

from __future__ import annotations

import json

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rakuten_tasks.registry.audit import ROLLBACK, record
from rakuten_tasks.registry.tracking import experiment_id, registry_lock

SETTLED = "settled"  # tag of a version: the alias that the gate gave it, set when all is done
ALIASES_BEFORE = "aliases_before"  # tag of a version: what the model's aliases were before it moved any
CHAMPION, CHALLENGER, BEST = "champion", "challenger", "best"


def delete_unfinalized(client: MlflowClient, run_id: str) -> list[int]:
    """Delete what a training that came to nothing has left: versions that are not settled, models without a version.

    Aliases that such a version had already moved go back. -> the numbers of the versions
    """
    gone = []
    if any(not _is_version_finalized(found) for found in _versions(client, run_id)):
        with registry_lock():  # nobody judges what is about to go
            for found in _versions(client, run_id):
                if not _is_version_finalized(found):
                    restore_aliases(client, found)
                    _delete(client, found)
                    gone.append(int(found.version))
    delete_orphan_models(client, run_id)
    return gone


def is_finalized(client: MlflowClient, run_id: str) -> bool:
    """Whether this training's version is settled: what came after that is only the report."""
    return any(_is_version_finalized(found) for found in _versions(client, run_id))


def _versions(client: MlflowClient, run_id: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"run_id='{run_id}'"))


def _is_version_finalized(version: ModelVersion) -> bool:
    return SETTLED in version.tags


def _delete(client: MlflowClient, version: ModelVersion) -> None:
    try:
        client.delete_model_version(version.name, version.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another training that started now was quicker
            raise


def restore_aliases(client: MlflowClient, version: ModelVersion) -> None:
    """Put the aliases that this unsettled version has moved back to where they were."""
    if ALIASES_BEFORE not in version.tags:
        return
    before: dict[str, int] = json.loads(version.tags[ALIASES_BEFORE])
    now = {alias: int(number) for alias, number in client.get_registered_model(version.name).aliases.items()}
    there = {int(found.version) for found in client.search_model_versions(f"name='{version.name}'")}
    number = int(version.version)
    # to where this version may have moved each; one that somebody else has moved since is left alone
    moved: dict[str, set[int | None]] = {CHAMPION: {number}, CHALLENGER: {number}, BEST: {number, before.get(CHAMPION)}}
    for alias, to in moved.items():
        former = before.get(alias)
        if now.get(alias) == former or now.get(alias) not in to:
            continue
        if former not in there:
            client.delete_registered_model_alias(version.name, alias)
            continue
        if alias == CHAMPION:
            why = "its training was given up while it was registered"
            record(client, version.name, ROLLBACK, number, former, "the registry", why)
        client.set_registered_model_alias(version.name, alias, str(former))


def delete_orphan_models(client: MlflowClient, run_id: str) -> None:
    """An attempt that was cut short leaves a model without a version; `make prune` deletes what it uploaded."""
    experiments = [experiment_id(client)]
    registered = {found.source for found in _versions(client, run_id)}
    for model in client.search_logged_models(experiments, filter_string=f"source_run_id = '{run_id}'"):
        if f"models:/{model.model_id}" not in registered:
            client.delete_logged_model(model.model_id)
