"""Deck of a member's training: settings, and for a network its curves and timings."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence

from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.page import render
from rakuten_tasks.reports.training_plots import (
    phase_starts,
    plotted_epochs,
    seconds_by_step,
    training_curves,
    training_pace,
)
from rakuten_tasks.training.state import EpochMetrics, best_epoch

MAX_ROWS = 200  # epochs in the table
MAX_SETTINGS = 60


def training_deck(title: str, epochs: Sequence[EpochMetrics], settings: Mapping[str, object]) -> str:
    """Render the page of a member.

    epochs: of all trainings in a row, see training_plots; empty if the member was fitted without epochs.
    """
    context: dict[str, object] = {}
    if epochs:
        columns, rows = _epoch_table(epochs)
        context = {
            "summary": _summary(epochs),
            "stride": plotted_epochs(epochs).step,
            "phases": len(phase_starts(epochs)),
            "figures": [training_curves(epochs), training_pace(epochs)],
            "columns": columns,
            "rows": rows,
        }
    rows_of_settings = [
        [name, truncate(f"{value:,}" if type(value) is int else str(value), 200)]
        for name, value in list(settings.items())[:MAX_SETTINGS]
    ]
    return render("training.html", title=title, epochs=len(epochs), settings=rows_of_settings, **context)


def _summary(epochs: Sequence[EpochMetrics]) -> dict[str, object]:
    best, starts = best_epoch(epochs), phase_starts(epochs)
    values: dict[str, object] = {"epochs": len(epochs)}
    if len(starts) > 1:
        values["trainings"] = len(starts)
    if not math.isnan(best.valid_loss):
        training = f" of training {bisect(starts, epochs.index(best))}" if len(starts) > 1 else ""
        values |= {
            "best epoch": f"{best.number}{training}",
            "its validation loss (nats)": f"{best.valid_loss:.4f}",
            "its weighted F1": f"{best.valid_f1:.4f}",
        }
    return values | {"time": format_duration(sum(epoch.seconds for epoch in epochs))}


def _epoch_table(epochs: Sequence[EpochMetrics]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the first MAX_ROWS epochs."""
    steps, starts = seconds_by_step(epochs), phase_starts(epochs)
    columns = ["epoch", "training loss", "validation loss", "validation F1", "learning rate", "seconds", *steps]
    rows: list[list[object]] = [
        [
            epoch.number,
            *("" if math.isnan(v) else f"{v:.4f}" for v in (epoch.train_loss, epoch.valid_loss, epoch.valid_f1)),
            f"{epoch.learning_rate:.2e}",
            *(f"{seconds:.1f}" for seconds in (epoch.seconds, *(step[i] for step in steps.values()))),
        ]
        for i, epoch in enumerate(epochs[:MAX_ROWS])
    ]
    if len(starts) > 1:
        columns = ["training", *columns]
        rows = [[bisect(starts, i), *row] for i, row in enumerate(rows)]
    return columns, rows


def format_duration(seconds: float) -> str:
    """Format as 1 h 02 min, 3 min 05 s or 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
