"""Drift: check a window, and train again after two drifting ones in a row if the catalogue has new products.

pyflyte run workflows/drift_watch.py watch_drift --kickoff 2026-01-01T06:00:00 --paths paths.json --source FOLDER
"""

from __future__ import annotations

from datetime import datetime

from flytekit import conditional, workflow

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.monitoring.history import DriftCheck
from rakuten_tasks.tasks.check_drift import MonitoringPaths, alert, check_drift, record_retraining
from workflows.training import train_classifier


@workflow
def retrain(check: DriftCheck, paths: MonitoringPaths, source: str, config: TrainingConfig, model: str) -> DriftCheck:
    """Train and let the gate decide, like train_classifier by hand.

    Args:
        check: result of the second drifting window.
        paths: as for watch_drift.
        source: as for train_classifier.
        config: as for train_classifier.
        model: as for train_classifier.
    """
    registered = train_classifier(source=source, config=config, model=model, report="")
    return record_retraining(check=check, registered=registered, paths=paths)


@workflow
def watch_drift(
    kickoff: datetime,
    paths: MonitoringPaths,
    source: str = "sample",
    config: TrainingConfig = TrainingConfig(),
    model: str = "",
    hours: float = 6.0,
    rest_hours: float = 72.0,
) -> DriftCheck:
    """Compare recent predictions of the champion with its held-out rows, and train or alert.

    Args:
        kickoff: end of the window, UTC.
        paths: addresses of the prediction log, the history of checks and the reports.
        source: the labelled catalogue; training needs it to differ from the champion's.
        config: as for train_classifier.
        model: name of the registered model; empty for the one that has a champion.
        hours: width of the window.
        rest_hours: shortest time between two trainings caused by drift.
    """
    check, must_train = check_drift(
        kickoff=kickoff, hours=hours, paths=paths, source=source, model=model, rest_hours=rest_hours
    )
    return (
        conditional("drift_is_real")
        .if_(must_train.is_true())  # type: ignore[attr-defined]
        .then(retrain(check=check, paths=paths, source=source, config=config, model=model))
        .else_()
        .then(alert(check=check))
    )
