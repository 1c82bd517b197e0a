"""Deck of a registration: the gate's decision and the bootstrap behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry.gate import GateDecision
from rakuten_tasks.reports.display_text import class_label, truncate
from rakuten_tasks.reports.page import render
from rakuten_tasks.reports.plot_style import with_size

MAX_LOSSES = 60  # classes in the table
MAX_REASON = 600  # characters: the reason names every class that lost too much
BINS = 50


def registration_deck(
    model: str,
    version: int,
    alias: str,
    decision: GateDecision,
    differences: Mapping[str, NDArray],
    config: GateConfig,
    losses: Mapping[int, float] | None = None,
    names: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    pretrained: Sequence[PretrainedWeights] = (),
) -> str:
    """Render the page of a registered version.

    alias: the one that the version got. names: code -> name. notes: warnings, shown first.
    differences: (resamples,) of bootstrap.paired_differences, new minus rival, by rival ("champion, version 3"); empty
    if there was no comparison. losses: F1 lost against the champion, by code, of gate.class_losses.
    """
    scores = {"this version": decision.new_f1, "champion": decision.incumbent_f1, "best champion": decision.best_f1}
    worst = sorted((losses or {}).items(), key=lambda item: -item[1])
    omitted = f"; {len(worst) - MAX_LOSSES:,} more lose less" if len(worst) > MAX_LOSSES else ""
    return render(
        "registration.html",
        decision=decision,
        config=config,
        summary={
            "model": model,
            "version": version,
            "alias": alias,
            "gate": "passed" if decision.passed else "refused",
        },
        notes=[truncate(text, MAX_REASON) for text in (*notes, decision.reason)],
        scores=[[name, f"{f1:.4f}", _signed(decision.new_f1 - f1)] for name, f1 in scores.items() if f1 is not None],
        bootstrap=[
            [rival, _signed(values.mean()), f"{(values >= -config.max_f1_loss).mean():.3f}"]
            for rival, values in differences.items()
        ],
        resamples=max((len(values) for values in differences.values()), default=0),
        histogram=paired_histogram(differences, config.max_f1_loss) if differences else None,
        losses=_losses(worst[:MAX_LOSSES], names or {}, config),
        losses_caption=(
            f"F1 lost against the champion, classes with {config.min_class_rows} test rows or more{omitted}"
        ),
        pretrained=[[item.name, truncate(item.source, MAX_REASON), item.licence, item.sha256] for item in pretrained],
    )


def _signed(difference: float) -> str:
    return f"{round(difference, 4) + 0.0:+.4f}"  # never -0.0000


def _losses(worst: list[tuple[int, float]], names: Mapping[str, str], config: GateConfig) -> list[list[object]]:
    """Table rows of (code, F1 lost)."""
    return [
        [
            class_label(code, names),
            f"{loss:+.3f}",
            "too much" if loss > config.max_class_loss else "allowed" if loss > 0 else "",
        ]
        for code, loss in worst
    ]


def paired_histogram(differences: Mapping[str, NDArray], margin: float) -> go.Figure:
    """Plot the lead of the new version over each rival in the resamples, and the loss that is allowed.

    differences: (resamples,) by rival. All rivals have the same bins.
    """
    values = np.concatenate([*differences.values(), [-margin]])
    low, high = values.min(), values.max()
    edges = np.linspace(low, high if high > low else low + 0.01, BINS + 1)
    figure = go.Figure()
    for rival, leads in differences.items():
        heights = np.histogram(leads, edges)[0] / len(leads)
        figure.add_bar(
            x=edges[:-1], y=heights, width=np.diff(edges), offset=0, name=escape(rival, quote=False), opacity=0.6
        )
    figure.add_vline(-margin, line_dash="dash", annotation_text=f"{0 - margin:g}", annotation_position="top")
    figure.update_xaxes(title="weighted F1 of the new version minus the rival's")
    figure.update_yaxes(title="share of the resamples", tickformat=".0%")
    return with_size(figure, "Lead over each rival", 1000, 420).update_layout(barmode="overlay")
