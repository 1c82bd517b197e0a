"""What the registry no longer needs: old versions, versions whose files are gone, files that no version names."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from rakuten_tasks.registry import champion
from rakuten_tasks.registry.audit import champions_before, history
from rakuten_tasks.registry.tracking import experiment_id


def prune(client: MlflowClient, model: str, keep: int) -> dict[int, str]:
    """Delete versions of a model. -> number -> why

    Those whose files are gone, whatever their alias; of the others those that are none of the newest `keep`, have no
    alias, and are not what a rollback goes back to. Who comes after a deleted version takes sides from those that stay.
    """
    there = champion.versions(client, model)
    now = champion.champion_version(client, model)
    back = champions_before(history(client, model), now)[-1:] if now is not None else []
    newest = [version.number for version in there][-keep:] if keep else []
    gone: dict[int, str] = {}
    for version in there:
        if not mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{model}/{version.number}"):
            gone[version.number] = "its files are gone"
        elif not version.aliases and version.number not in (*newest, *back):
            gone[version.number] = f"no alias, none of the newest {keep}, and no rollback leads to it"
    for number in gone:
        _delete(client, model, number)
    return gone


def _delete(client: MlflowClient, model: str, number: int) -> None:
    source = client.get_model_version(model, str(number)).source or ""
    client.delete_model_version(model, str(number))
    client.delete_logged_model(source.removeprefix("models:/"))


def sweep_files(client: MlflowClient) -> int:
    """Delete the files of deleted models where the store is a folder; MLflow leaves them there. -> models"""
    experiment = client.get_experiment(experiment_id(client))
    place = urlparse(experiment.artifact_location)
    if place.scheme not in ("", "file"):
        return 0
    folder = Path(unquote(place.path)) / "models"
    named = {found.model_id for found in _every_model(client, experiment.experiment_id)}
    unnamed = [path for path in folder.glob("m-*") if path.name not in named]
    for path in unnamed:
        shutil.rmtree(path)
    return len(unnamed)


def _every_model(client: MlflowClient, experiment: str) -> list[LoggedModel]:
    found: list[LoggedModel] = []
    token = None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        found += page
        if not (token := page.token):
            return found
