"""MLflow's registry for the worker: the champion's version and its bundle."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow.exceptions import MlflowException

from rakuten_tasks.registry.tracking import connect, store_exists
from rakuten_tasks.registry.versions import BUNDLE_HASH, CHAMPION, DEFAULT_MODEL, SAMPLE_MODEL, fetch
from serving.worker.bundle_cache import Champion

# The worker notices within seconds that a server is down, not after MLflow's seven retries of two minutes each.
FAIL_FAST_ENV = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
NO_CHAMPION = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # no such alias, no such model


class StoreMissingError(FileNotFoundError):
    """A missing MLflow store. The message holds no address and may be shown to every client."""


class ModelSource:
    """The registered model that the server was started for."""

    def __init__(self, model: str) -> None:
        """model: empty for the default model, or the sample's while that has no champion."""
        for name, value in FAIL_FAST_ENV.items():
            os.environ.setdefault(name, value)
        self._names = [model] if model else [DEFAULT_MODEL, SAMPLE_MODEL]

    def champion(self) -> Champion | None:
        """Return the version with the alias champion, None if there is none.

        Raises StoreMissingError, and whatever MLflow raises if it cannot be reached.
        """
        if not store_exists():  # connecting would create an empty one
            raise StoreMissingError("the MLflow store is missing: run `make train`, or put the store back")
        client = connect()
        for model in self._names:
            try:
                version = client.get_model_version_by_alias(model, CHAMPION)
            except MlflowException as error:
                if error.error_code not in NO_CHAMPION:
                    raise
                continue
            return Champion(model, str(version.version), version.tags.get(BUNDLE_HASH, ""))
        return None

    def is_allowed(self, model: str) -> bool:
        """Whether this server may serve bundles of the model."""
        return model in self._names

    def no_champion_message(self) -> str:
        """Problem text for a registry without a champion."""
        return f"no champion of {' or '.join(self._names)} yet: run `make train`, or name another model with MODEL="

    def fetch(self, champion: Champion, folder: Path) -> Path:
        """Copy the champion's bundle into the folder and return where in it."""
        return fetch(connect(), champion.model, champion.version, folder)
