"""What both trainings tell MLflow: a point for every epoch, the curves as a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from flytekit.types.file import FlyteFile

from rakuten_tasks.classifier.plots import training_curves
from rakuten_tasks.classifier.training import Epoch
from rakuten_tasks.registry.tracking import ChildRun


def log_epoch(log: ChildRun) -> Callable[[Epoch], None]:
    """A callback that sends each epoch's figures to the child run."""

    def send(epoch: Epoch) -> None:
        figures = dataclasses.asdict(epoch)
        log.metrics({name: value for name, value in figures.items() if name != "number"}, step=epoch.number)

    return send


def write_epochs(epochs: Sequence[Epoch], folder: Path, log: ChildRun) -> FlyteFile:
    """The epochs as JSON, and their curves as a figure of the child run."""
    log.figure(training_curves(epochs), "curves")
    path = folder / "epochs.json"
    path.write_text(json.dumps([dataclasses.asdict(epoch) for epoch in epochs], indent=1))
    return FlyteFile(str(path))
