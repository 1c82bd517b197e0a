"""Deletion of old versions, versions without files, old runs, and files of deleted runs."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from rakuten_tasks.registry import versions
from rakuten_tasks.registry.gate import DECISION
from rakuten_tasks.registry.mlflow_adapter import PARENT_RUN, all_pages, model_folders
from rakuten_tasks.registry.runs import EXECUTION, REPRODUCES
from rakuten_tasks.registry.tracking import experiment_id, registry_lock, sqlite_file, tracking_uri

SOURCE = "models:/"


def prune(client: MlflowClient, model: str, keep: int, forget: bool = False) -> dict[int, str]:
    """Delete versions of a model. Returns the reason of each, by number.

    Deleted are versions whose files are gone, whatever their alias, and of the others those that are none of the newest
    `keep`, have no alias, and are not what a rollback goes back to. Not touched are versions that this package has not
    registered, and those whose registration has not ended.
    forget: also if the files of all are gone. Raises LookupError otherwise: the store may only be away.
    """
    with registry_lock():
        own = {
            int(version.version): version
            for version in client.search_model_versions(f"name='{model}'")
            if {versions.BUNDLE_HASH, DECISION} <= version.tags.keys()
        }
        lost = {number for number in own if not versions.has_files(model, number)}
        if lost and lost == set(own) and not forget:
            raise LookupError(
                f"the files of all {len(lost)} versions of {model} are gone: if the store is only away, bring it back; "
                "`make prune FORGET=1` forgets them all"
            )
        reasons = dict.fromkeys(sorted(lost), "its files are gone")
        champion = versions.champion_version(client, model)
        previous = versions.previous_champions(client, model, champion) if champion else []
        rollback = [number for number in previous if number not in lost][-1:]
        intact = sorted(own.keys() - lost)
        for number in intact[:-keep]:
            if number not in (*rollback, *versions.aliases(client, model).values()):
                reasons[number] = f"no alias, none of the newest {keep}, and no rollback leads to it"
        for number in reasons:
            _delete(client, own[number])
    return reasons


def _delete(client: MlflowClient, version: ModelVersion) -> None:
    client.delete_model_version(version.name, version.version)
    other_sources = [other.source for other in client.search_model_versions(f"run_id='{version.run_id}'")]
    source = version.source or ""
    if source.startswith(SOURCE) and source not in other_sources:
        client.delete_logged_model(source.removeprefix(SOURCE))


def prune_runs(client: MlflowClient, model: str, age: timedelta) -> int:
    """Delete a model's trainings that ended so long ago and have no version: failed ones, or of a deleted version.

    Deletes its reproductions too, and the runs of their tasks, which hold the Decks. Returns the number of trainings.
    """
    deleted = 0
    with registry_lock():
        for run in _search_runs(client, ViewType.ACTIVE_ONLY):
            old = run.info.end_time and run.info.end_time / 1000 < time.time() - age.total_seconds()
            if not old or EXECUTION not in run.data.tags or not _is_training_of(run, model):
                continue
            if client.search_model_versions(f"run_id='{run.info.run_id}'"):
                continue
            for child in _search_runs(client, ViewType.ACTIVE_ONLY, f"tags.`{PARENT_RUN}` = '{run.info.run_id}'"):
                client.delete_run(child.info.run_id)
            client.delete_run(run.info.run_id)
            deleted += 1
    return deleted


def _is_training_of(run: Run, model: str) -> bool:
    return run.info.run_name == model or run.data.tags.get(REPRODUCES, "").startswith(f"{model} version ")


def sweep_files(client: MlflowClient) -> int:
    """Delete the files of deleted models and runs, which MLflow leaves, if the store is our own in var/.

    Returns how many models and runs had files.
    """
    database = sqlite_file(tracking_uri())
    if database is None:
        return 0
    experiment = client.get_experiment(experiment_id(client))
    artifacts = Path(unquote(urlparse(experiment.artifact_location).path))
    # A copied store still names the artifacts of the original
    if artifacts != database.resolve().parent / "artifacts":
        return 0
    folders = model_folders(artifacts)  # listed before the models: one that is registered meanwhile is not among them
    models = all_pages(lambda token: client.search_logged_models([experiment.experiment_id], page_token=token))
    model_ids = {model.model_id for model in models}
    deleted = [folder for folder in folders if folder.name not in model_ids]
    run_folders = (artifacts / run.info.run_id for run in _search_runs(client, ViewType.DELETED_ONLY))
    deleted += [folder for folder in run_folders if folder.exists()]
    for folder in deleted:
        shutil.rmtree(folder)
    return len(deleted)


def _search_runs(client: MlflowClient, view: int, condition: str = "") -> list[Run]:
    experiments = [experiment_id(client)]
    return all_pages(lambda token: client.search_runs(experiments, condition, view, page_token=token))
