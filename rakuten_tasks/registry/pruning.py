"""Deletion of old versions, versions without files, old runs, and files of deleted runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.entities import PagedList
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from rakuten_tasks.registry import versions
from rakuten_tasks.registry.gate import DECISION
from rakuten_tasks.registry.runs import EXECUTION, REPRODUCES
from rakuten_tasks.registry.tracking import SQLITE, experiment_id, registry_lock, tracking_uri

SOURCE = "models:/"

T = TypeVar("T")


def prune(client: MlflowClient, model: str, keep: int, forget: bool = False) -> dict[int, str]:
    """Delete versions of a model. -> number -> why

    Those whose files are gone, whatever their alias; of the others those that are none of the newest `keep`, have no
    alias, and are not what a rollback goes back to. Versions of others, and those that are being registered, stay.
    forget: also if the files of all are gone. Raises LookupError otherwise: the store may only be away.
    """
    with registry_lock():
        ours = {
            int(found.version): found
            for found in client.search_model_versions(f"name='{model}'")
            if {versions.BUNDLE_HASH, DECISION} <= found.tags.keys()
        }
        lost = {number for number in ours if not _has_files(model, number)}
        if lost and lost == set(ours) and not forget:
            raise LookupError(
                f"the files of all {len(lost)} versions of {model} are gone: if the store is only away, bring it back; "
                "`make prune FORGET=1` forgets them all"
            )
        gone = dict.fromkeys(sorted(lost), "its files are gone")
        now = versions.champion_version(client, model)
        back = [n for n in versions.previous_champions(client, model, now) if n not in lost][-1:] if now else []
        stay = {*sorted(ours.keys() - lost)[-keep:], *back}
        for number in sorted(ours.keys() - lost - stay - set(versions.aliases(client, model).values())):
            gone[number] = f"no alias, none of the newest {keep}, and no rollback leads to it"
        for number in gone:
            _delete(client, ours[number])
    return gone


def _has_files(model: str, number: int) -> bool:
    return bool(mlflow.artifacts.list_artifacts(artifact_uri=f"{SOURCE}{model}/{number}"))


def _delete(client: MlflowClient, version: ModelVersion) -> None:
    client.delete_model_version(version.name, version.version)
    others = [found.source for found in client.search_model_versions(f"run_id='{version.run_id}'")]
    source = version.source or ""
    if source.startswith(SOURCE) and source not in others:
        client.delete_logged_model(source.removeprefix(SOURCE))


def prune_runs(client: MlflowClient, model: str, age: timedelta) -> int:
    """Delete a model's trainings that ended so long ago and no version comes from: failed, or their version is deleted.

    Its reproductions too, and the runs of their tasks, which hold the Decks. -> how many
    """
    deleted = 0
    with registry_lock():
        for run in _runs(client, ViewType.ACTIVE_ONLY):
            ended = run.info.end_time and run.info.end_time / 1000 < time.time() - age.total_seconds()
            told = run.info.run_name == model or run.data.tags.get(REPRODUCES, "").startswith(f"{model} version ")
            if EXECUTION not in run.data.tags or not told or not ended:
                continue
            if client.search_model_versions(f"run_id='{run.info.run_id}'"):
                continue
            for task in _runs(client, ViewType.ACTIVE_ONLY, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.info.run_id}'"):
                client.delete_run(task.info.run_id)
            client.delete_run(run.info.run_id)
            deleted += 1
    return deleted


def sweep_files(client: MlflowClient) -> int:
    """Delete the files of deleted models and runs, which MLflow leaves there, where the store is our own in var/.

    -> of how many
    """
    if not tracking_uri().startswith(SQLITE):
        return 0
    experiment = client.get_experiment(experiment_id(client))
    place = Path(unquote(urlparse(experiment.artifact_location).path))
    # a store that was copied still names the folder of the other
    if place != Path(tracking_uri().removeprefix(SQLITE)).resolve().parent / "artifacts":
        return 0
    found = list(place.glob("models/m-*"))  # before their names: one that is being registered now is not among them
    models = _every(lambda token: client.search_logged_models([experiment.experiment_id], page_token=token))
    named = {model.model_id for model in models}
    gone = [path for path in found if path.name not in named]
    gone += [path for run in _runs(client, ViewType.DELETED_ONLY) if (path := place / run.info.run_id).exists()]
    for path in gone:
        shutil.rmtree(path)
    return len(gone)


def _runs(client: MlflowClient, view: int, condition: str = "") -> list[Run]:
    return _every(lambda token: client.search_runs([experiment_id(client)], condition, view, page_token=token))


def _every(page: Callable[[str | None], PagedList[T]]) -> list[T]:
    found: list[T] = []
    token = None
    while True:
        some = page(token)
        found += some
        if not (token := some.token):
            return found
