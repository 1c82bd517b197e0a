"""What both trainings tell MLflow and show: a point for every epoch, the curves as a picture, a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flytekit.types.file import FlyteFile

from rakuten_tasks.classifier.machine import machine
from rakuten_tasks.classifier.plots import training_curves
from rakuten_tasks.classifier.training import Epoch
from rakuten_tasks.config import PhotoConfig, TextConfig
from rakuten_tasks.console import show
from rakuten_tasks.decks.training import training_deck
from rakuten_tasks.registry.tracking import RunLog


def log_epoch(log: RunLog) -> Callable[[Epoch], None]:
    """A callback that sends each epoch's figures to the task's run."""

    def send(epoch: Epoch) -> None:
        figures = dataclasses.asdict(epoch)
        log.metrics({name: value for name, value in figures.items() if name != "number"}, step=epoch.number)

    return send


def told(seed: int, config: TextConfig | PhotoConfig, **chosen: object) -> dict[str, object]:
    """The settings of a training, for people: what a zero left to be chosen is not told as zero."""
    values = {name: "chosen" if value == 0 else value for name, value in config.to_dict().items()}
    if isinstance(config, PhotoConfig):  # where zero means none
        values["fine_tune_epochs"] = config.fine_tune_epochs
    return {"seed": seed, **values, **chosen}


def record(
    title: str, name: str, epochs: Sequence[Epoch], settings: Mapping[str, object], folder: Path, log: RunLog
) -> tuple[FlyteFile, FlyteFile]:
    """The epochs as JSON, and their curves as a figure of the run and, beside the settings, a page. -> both files"""
    log.figure(training_curves(epochs), "curves")
    path = folder / "epochs.json"
    path.write_text(json.dumps([dataclasses.asdict(epoch) for epoch in epochs], indent=1))
    return FlyteFile(str(path)), show(
        name, title, training_deck(title, epochs, {**settings, "machine": machine()}), log
    )
