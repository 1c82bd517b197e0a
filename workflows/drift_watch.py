"""Drift: look at a window, and train again after two drifting ones in a row if there is anything new to learn.

pyflyte run workflows/drift_watch.py watch_drift --kickoff 2026-01-01T06:00:00 --places places.json --source FOLDER
"""

from __future__ import annotations

from datetime import datetime

from flytekit import conditional, workflow

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.monitoring.history import DriftCheck
from rakuten_tasks.tasks.check_drift import MonitoringPaths, alert, check_drift, record_retraining
from workflows.training import train_classifier


@workflow
def retrain(look: DriftCheck, places: MonitoringPaths, source: str, config: TrainingConfig, model: str) -> DriftCheck:
    """Train and let the gate decide, as by hand.

    Args:
        look: the window that asked for it.
        places: as for watch_drift.
        source: as for train_classifier.
        config: as for train_classifier.
        model: as for train_classifier.
    """
    registered = train_classifier(source=source, config=config, model=model, report="")
    return record_retraining(look=look, registered=registered, places=places)


@workflow
def watch_drift(
    kickoff: datetime,
    places: MonitoringPaths,
    source: str = "sample",
    config: TrainingConfig = TrainingConfig(),
    model: str = "",
    hours: float = 6.0,
    rest_hours: float = 72.0,
) -> DriftCheck:
    """Compare what the champion has answered lately with its held-out rows, and act on it.

    Args:
        kickoff: end of the window, UTC.
        places: addresses of prediction log, history of windows and reports.
        source: the labelled catalogue; trained on only if it differs from the champion's.
        config: as for train_classifier.
        model: name of the registered model; empty for the one that has a champion.
        hours: width of the window.
        rest_hours: none is trained so soon after a training that drift has caused.
    """
    look, wanted = check_drift(
        kickoff=kickoff, hours=hours, places=places, source=source, model=model, rest_hours=rest_hours
    )
    return (
        conditional("drift_is_real")
        .if_(wanted.is_true())  # type: ignore[attr-defined]
        .then(retrain(look=look, places=places, source=source, config=config, model=model))
        .else_()
        .then(alert(look=look))
    )
