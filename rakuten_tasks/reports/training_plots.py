"""Training curves, for Decks and MLflow.

The epochs of several trainings in a row are given as one list, in which each begins with number 1 again; one that has
no held-out rows has no validation loss (NaN).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rakuten_tasks.reports.plot_style import GREY, STEP_COLOURS, with_size
from rakuten_tasks.training.state import EpochMetrics

MAX_DRAWN = 500  # epochs


def phase_starts(epochs: Sequence[EpochMetrics]) -> list[int]:
    """Places at which a training begins, 0 first; none of no epochs."""
    return [i for i, epoch in enumerate(epochs) if i == 0 or epoch.number <= epochs[i - 1].number]


def training_curves(epochs: Sequence[EpochMetrics]) -> go.Figure:
    """Losses and validation F1 by epoch, at most MAX_DRAWN of them."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("cross-entropy (nats)", "weighted F1 on validation"))
    for name, values, column in (
        ("training loss", [epoch.train_loss for epoch in epochs], 1),
        ("validation loss", [epoch.valid_loss for epoch in epochs], 1),
        ("validation F1", [epoch.valid_f1 for epoch in epochs], 2),
    ):
        figure.add_trace(_line(epochs, values).update(name=name), row=1, col=column)
    return with_size(_by_epoch(figure, epochs), "Training", 1200, 400)


def training_pace(epochs: Sequence[EpochMetrics]) -> go.Figure:
    """Learning rate and seconds by step of each epoch, as parts of the whole; at most MAX_DRAWN epochs."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("learning rate (last step)", "time by step (s)"))
    rates = _line(epochs, [epoch.learning_rate for epoch in epochs]).update(showlegend=False)
    figure.add_trace(rates, row=1, col=1)
    drawn = _drawn(epochs)
    for (name, values), colour in zip(seconds_by_step(epochs).items(), STEP_COLOURS, strict=True):
        heights = [values[i] for i in drawn]
        bar = go.Bar(x=[i + 1 for i in drawn], y=heights, name=name, marker_color=colour)
        figure.add_trace(bar, row=1, col=2)
    figure.update_yaxes(exponentformat="power", row=1, col=1)
    return with_size(_by_epoch(figure, epochs), "Learning rate and time", 1200, 400).update_layout(barmode="stack")


def _drawn(epochs: Sequence[EpochMetrics]) -> range:
    return range(0, len(epochs), -(-len(epochs) // MAX_DRAWN) or 1)


def _line(epochs: Sequence[EpochMetrics], values: Sequence[float]) -> go.Scatter:
    """values: one an epoch. The line is broken where a training ends."""
    starts, last = set(phase_starts(epochs)[1:]), 0
    x: list[int | None] = []
    y: list[float | None] = []
    for i in _drawn(epochs):
        if starts & set(range(last + 1, i + 1)):
            x.append(None)
            y.append(None)
        x.append(i + 1)
        y.append(values[i])
        last = i
    return go.Scatter(x=x, y=y, mode="lines+markers")


def _by_epoch(figure: go.Figure, epochs: Sequence[EpochMetrics]) -> go.Figure:
    starts = phase_starts(epochs)
    for start in starts[1:]:
        figure.add_vline(start + 0.5, line_dash="dash", line_color=GREY, line_width=1)
    title = "epoch" if len(starts) < 2 else f"epoch of {len(starts)} trainings in a row"
    return figure.update_xaxes(title=title, dtick=max(1, len(epochs) // 10))


def seconds_by_step(epochs: Iterable[EpochMetrics]) -> dict[str, list[float]]:
    """Seconds of each epoch by what they were spent on; "other" is what was not measured apart."""
    epochs = list(epochs)
    parts = {
        "read": [epoch.read_seconds for epoch in epochs],
        "compute": [epoch.compute_seconds for epoch in epochs],
        "validate": [epoch.validate_seconds for epoch in epochs],
        "save": [epoch.save_seconds for epoch in epochs],
    }
    measured = [sum(seconds) for seconds in zip(*parts.values(), strict=True)]
    parts["other"] = [max(0.0, epoch.seconds - known) for epoch, known in zip(epochs, measured, strict=True)]
    return parts
