"""MLflow for the worker: the champion's version, its bundle, and a run for the minutes' metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from serving.worker.bundle_cache import Champion

# A server that is down must be noticed within seconds, not after MLflow's seven retries of two minutes each.
FAIL_FAST_ENV = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
NO_CHAMPION = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # no such alias, no such model


class StoreMissingError(FileNotFoundError):
    """The message holds no address and may be shown to all."""


class ModelSource:
    """model: empty for the default one, or the sample's while that has no champion."""

    def __init__(self, model: str) -> None:
        for name, value in FAIL_FAST_ENV.items():
            os.environ.setdefault(name, value)
        self._model = model

    def champion(self) -> Champion | None:
        """The alias's version now, None if there is none. Raises what MLflow raises where it cannot be asked."""
        from mlflow.exceptions import MlflowException  # 3 s

        from rakuten_tasks.registry.tracking import connect, store_exists
        from rakuten_tasks.registry.versions import BUNDLE_HASH, CHAMPION

        if not store_exists():  # connecting would make an empty one in its place
            raise StoreMissingError("the MLflow store is not there: run `make train`, or put it back")
        client = connect()
        for model in self._names():
            try:
                found = client.get_model_version_by_alias(model, CHAMPION)
            except MlflowException as error:
                if error.error_code not in NO_CHAMPION:
                    raise
                continue
            return Champion(model, str(found.version), found.tags.get(BUNDLE_HASH) or found.run_id or "")
        return None

    def is_allowed(self, model: str) -> bool:
        """Whether a bundle of this model is one that was asked for."""
        return model in self._names()

    def no_champion_message(self) -> str:
        """What to say where there is no champion."""
        return f"no champion of {' or '.join(self._names())} yet: run `make train`, or name another model with MODEL="

    def fetch(self, champion: Champion, folder: Path) -> Path:
        """Copy the bundle into the folder. -> where in it"""
        from rakuten_tasks.registry.tracking import connect
        from rakuten_tasks.registry.versions import fetch

        return fetch(connect(), champion.model, champion.version, folder)

    def open_run(self, name: str, tags: Mapping[str, str]) -> str:
        """A run for the metrics of this server. -> its id"""
        from rakuten_tasks.registry.tracking import connect, experiment_id

        client = connect()
        return client.create_run(experiment_id(client), run_name=name, tags=dict(tags)).info.run_id

    def log(self, run_id: str, metrics: Mapping[str, float], moment: float) -> None:
        """moment: seconds since 1970; the step is its minute."""
        from mlflow.entities import Metric

        from rakuten_tasks.registry.tracking import connect

        at, step = round(moment * 1000), round(moment / 60)
        connect().log_batch(run_id, [Metric(name, float(value), at, step) for name, value in metrics.items()])

    def close_run(self, run_id: str) -> None:
        """The server ended."""
        from rakuten_tasks.registry.tracking import connect

        connect().set_terminated(run_id)

    def _names(self) -> list[str]:
        from rakuten_tasks.registry.versions import DEFAULT_MODEL, SAMPLE_MODEL

        return [self._model] if self._model else [DEFAULT_MODEL, SAMPLE_MODEL]
