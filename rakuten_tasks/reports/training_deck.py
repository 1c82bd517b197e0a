"""Deck of a member's fit: settings, and for a network its curves and timings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rakuten_tasks.reports import page
from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.page import caption, deck, figure, heading, table
from rakuten_tasks.reports.training_plots import (
    MAX_DRAWN,
    phase_starts,
    seconds_by_step,
    training_curves,
    training_pace,
)
from rakuten_tasks.training.state import EpochMetrics, best_epoch

MAX_ROWS = 200  # epochs in the table
MAX_FACTS = 60


def training_deck(title: str, epochs: Sequence[EpochMetrics], facts: Mapping[str, object]) -> str:
    """epochs: of all trainings in a row, see training_plots; none of a member fitted without. facts: by name."""
    told = _facts(facts)
    if not epochs:
        return deck(title, [caption("Fitted to convergence, without epochs."), *told])
    return deck(title, [_best(epochs), *told, *_figures(epochs), *_epochs(epochs)])


def _best(epochs: Sequence[EpochMetrics]) -> Markup:
    best, starts = best_epoch(epochs), phase_starts(epochs)
    values: dict[str, object] = {"epochs": len(epochs)}
    if len(starts) > 1:
        values["trainings"] = len(starts)
    if not math.isnan(best.valid_loss):
        training = f" of training {_training(starts, epochs.index(best))}" if len(starts) > 1 else ""
        values |= {
            "best epoch (kept)": f"{best.number}{training}",
            "its validation loss (nats)": f"{best.valid_loss:.4f}",
            "its weighted F1": f"{best.valid_f1:.4f}",
        }
    return page.key_values(values | {"time": duration(sum(epoch.seconds for epoch in epochs))})


def _training(starts: Sequence[int], place: int) -> int:
    return sum(start <= place for start in starts)


def _facts(values: Mapping[str, object]) -> list[Markup]:
    told = list(values.items())[:MAX_FACTS]
    rows = [(name, truncate(f"{value:,}" if type(value) is int else str(value), 200)) for name, value in told]
    return [table(["setting", "value"], rows)] if rows else []


def _figures(epochs: Sequence[EpochMetrics]) -> list[Markup]:
    every = -(-len(epochs) // MAX_DRAWN)
    notes = [caption(f"Drawn is one epoch of every {every}.")] if every > 1 else []
    if len(phase_starts(epochs)) > 1:
        notes.append(
            caption(
                "Several trainings, one after the other: a dashed line stands between them. One without a validation "
                "loss had no held-out rows, and as many epochs as were best before."
            )
        )
    return [heading("Curves"), *notes, figure(training_curves(epochs)), figure(training_pace(epochs))]


def _epochs(epochs: Sequence[EpochMetrics]) -> list[Markup]:
    parts, starts = seconds_by_step(epochs), phase_starts(epochs)
    columns = ["epoch", "training loss", "validation loss", "validation F1", "learning rate", "seconds", *parts]
    rows = [
        (
            epoch.number,
            *(_number(value) for value in (epoch.train_loss, epoch.valid_loss, epoch.valid_f1)),
            f"{epoch.learning_rate:.2e}",
            *(f"{seconds:.1f}" for seconds in (epoch.seconds, *(part[i] for part in parts.values()))),
        )
        for i, epoch in enumerate(epochs[:MAX_ROWS])
    ]
    if len(starts) > 1:
        columns = ["training", *columns]
        rows = [(_training(starts, i), *row) for i, row in enumerate(rows)]
    caption = f"seconds by step; the first {MAX_ROWS} of {len(epochs)} epochs" if len(epochs) > MAX_ROWS else ""
    return [heading("Epochs"), table(columns, rows, caption or "seconds by step")]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
