"""Logging of a member's fit: metrics of each epoch, curves, Deck."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from flytekit.types.file import FlyteFile

from rakuten_tasks.models.members.member import FitResult
from rakuten_tasks.registry.run_log import RunLog
from rakuten_tasks.reports.index import FIT
from rakuten_tasks.reports.training_deck import training_deck
from rakuten_tasks.reports.training_plots import training_curves
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.training.hardware import hardware_info
from rakuten_tasks.training.state import EpochMetrics

# settings whose zero stands for a value chosen by the code
CHOSEN = ("epochs", "learning_rate", "vocabulary_size", "image_size", "max_characters", "max_tokens")


def log_epoch(log: RunLog) -> Callable[[EpochMetrics], None]:
    """Return a callback that logs each epoch's metrics to the task's run.

    Names of the second training in the same fit have the prefix "2_", as in "2_train_loss", and so on.
    """
    training, last = 1, 0

    def send(epoch: EpochMetrics) -> None:
        nonlocal training, last
        training += epoch.number <= last
        last = epoch.number
        prefix = f"{training}_" if training > 1 else ""
        values = dataclasses.asdict(epoch)
        number = values.pop("number")
        metrics = {f"{prefix}{name}": value for name, value in values.items() if not math.isnan(value)}
        log.metrics(metrics, step=number)

    return send


def log_fit(
    name: str, fitted: FitResult, settings: Mapping[str, object], folder: Path, log: RunLog
) -> tuple[FlyteFile, FlyteFile]:
    """Log curves and a Deck of epochs and settings to the run. -> JSON of the epochs, HTML of the Deck

    name: the member's. A member without epochs has an empty list and no curves.
    """
    if fitted.epochs:
        log.figure(training_curves(fitted.epochs), "curves")
    path = folder / "epochs.json"
    epochs = [dataclasses.asdict(epoch) for epoch in fitted.epochs]
    rows = [{key: None if math.isnan(value) else value for key, value in epoch.items()} for epoch in epochs]
    path.write_text(json.dumps(rows, indent=1))
    chosen = {key: "chosen" if value == 0 and key in CHOSEN else value for key, value in settings.items()}
    counts = {**fitted.details, "rows scored unseen": int((~fitted.stopping).sum())}
    properties = {**chosen, **counts, "machine": hardware_info()}
    page = training_deck(f"Member {name}", fitted.epochs, properties)
    return FlyteFile(str(path)), show_deck(f"{FIT}{name}", f"Member {name}", page, log)
