"""Training curves, for Decks and MLflow.

The epochs of several trainings in a row are one list; the epoch numbers of each training begin at 1. A training without
held-out rows has no validation loss (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rakuten_tasks.reports.plot_style import GREY, STEP_COLOURS, with_size
from rakuten_tasks.training.state import EpochMetrics

MAX_EPOCHS = 500  # epochs in a plot


def phase_starts(epochs: Sequence[EpochMetrics]) -> list[int]:
    """Return the index of each training's first epoch; empty if there are no epochs."""
    return [i for i, epoch in enumerate(epochs) if i == 0 or epoch.number <= epochs[i - 1].number]


def plotted_epochs(epochs: Sequence[EpochMetrics]) -> range:
    """Return the indices of at most MAX_EPOCHS epochs, evenly spaced."""
    return range(0, len(epochs), -(-len(epochs) // MAX_EPOCHS) or 1)


def training_curves(epochs: Sequence[EpochMetrics]) -> go.Figure:
    """Plot losses and validation F1 by epoch."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("cross-entropy (nats)", "weighted F1 on validation"))
    for name, values, column in (
        ("training loss", [epoch.train_loss for epoch in epochs], 1),
        ("validation loss", [epoch.valid_loss for epoch in epochs], 1),
        ("validation F1", [epoch.valid_f1 for epoch in epochs], 2),
    ):
        figure.add_trace(_line(epochs, values).update(name=name), row=1, col=column)
    return with_size(_mark_trainings(figure, epochs), "Training", 1200, 400)


def training_pace(epochs: Sequence[EpochMetrics]) -> go.Figure:
    """Plot the learning rate, and the seconds of each epoch as stacked bars by step."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("learning rate (last step)", "time by step (s)"))
    rates = _line(epochs, [epoch.learning_rate for epoch in epochs]).update(showlegend=False)
    figure.add_trace(rates, row=1, col=1)
    indices = plotted_epochs(epochs)
    for (name, seconds), colour in zip(seconds_by_step(epochs).items(), STEP_COLOURS, strict=True):
        heights = [seconds[i] for i in indices]
        figure.add_bar(x=[i + 1 for i in indices], y=heights, name=name, marker_color=colour, row=1, col=2)
    figure.update_yaxes(exponentformat="power", row=1, col=1)
    return with_size(_mark_trainings(figure, epochs), "Learning rate and time", 1200, 400).update_layout(
        barmode="stack"
    )


def _line(epochs: Sequence[EpochMetrics], values: Sequence[float]) -> go.Scatter:
    """Plot one value an epoch as a line with a gap between trainings."""
    starts, previous = set(phase_starts(epochs)[1:]), 0
    x: list[int | None] = []
    y: list[float | None] = []
    for i in plotted_epochs(epochs):
        if starts & set(range(previous + 1, i + 1)):
            x.append(None)
            y.append(None)
        x.append(i + 1)
        y.append(values[i])
        previous = i
    return go.Scatter(x=x, y=y, mode="lines+markers")


def _mark_trainings(figure: go.Figure, epochs: Sequence[EpochMetrics]) -> go.Figure:
    """Draw a dashed line between trainings, and label the epochs."""
    starts = phase_starts(epochs)
    for start in starts[1:]:
        figure.add_vline(start + 0.5, line_dash="dash", line_color=GREY, line_width=1)
    title = "epoch" if len(starts) < 2 else f"epoch of {len(starts)} trainings in a row"
    return figure.update_xaxes(title=title, dtick=max(1, len(epochs) // 10))


def seconds_by_step(epochs: Sequence[EpochMetrics]) -> dict[str, list[float]]:
    """Return the seconds of each epoch by step; "other" is the time that no step was measured for."""
    steps = {
        "read": [epoch.read_seconds for epoch in epochs],
        "compute": [epoch.compute_seconds for epoch in epochs],
        "validate": [epoch.validate_seconds for epoch in epochs],
        "save": [epoch.save_seconds for epoch in epochs],
    }
    measured = [sum(seconds) for seconds in zip(*steps.values(), strict=True)]
    return steps | {"other": [max(0.0, e.seconds - total) for e, total in zip(epochs, measured, strict=True)]}
