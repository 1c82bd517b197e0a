"""The figures people look at: plotly, and PNG where a page cannot run it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rakuten_tasks.classifier.evaluation import FUSED, Evaluation, Reliability
from rakuten_tasks.classifier.fusion import WeightSearch

if TYPE_CHECKING:
    from rakuten_tasks.classifier.training import Epoch

# Counts are written into the confusion matrix up to this many classes; above it they would be dust.
MAX_CLASSES_WITH_COUNTS = 40


def fusion_curve(search: WeightSearch) -> go.Figure:
    """Weighted F1 over the first branch's weight, exact, with the plateau and the weight chosen."""
    figure = go.Figure(
        go.Scatter(
            x=search.edges,
            y=np.append(search.scores, search.scores[-1]),
            line={"shape": "hv", "width": 1.5},
        )
    )
    figure.add_vrect(x0=search.low, x1=search.high, fillcolor="green", opacity=0.12, line_width=0)
    figure.add_vline(search.weight, line_dash="dash")
    figure.update_xaxes(title="weight of the first branch (text)", range=[0, 1])
    figure.update_yaxes(title="weighted F1 on validation B")
    title = (
        f"Weight chosen: {search.weight:.3f}, the centre of [{search.low:.3f}, {search.high:.3f}]"
        f"<br><sup>within a standard error ({search.standard_error:.3f}) of the best, {search.optimum:.3f}</sup>"
    )
    return _sized(figure, title, 800, 500).update_layout(showlegend=False)


def training_curves(epochs: Sequence[Epoch]) -> go.Figure:
    """Losses and validation F1 by epoch."""
    numbers = [epoch.number for epoch in epochs]
    figure = make_subplots(rows=1, cols=2, subplot_titles=("cross-entropy (nats)", "weighted F1 on validation A"))
    for name, values, column in (
        ("training loss", [epoch.train_loss for epoch in epochs], 1),
        ("validation loss", [epoch.valid_loss for epoch in epochs], 1),
        ("validation F1", [epoch.valid_f1 for epoch in epochs], 2),
    ):
        figure.add_trace(go.Scatter(x=numbers, y=values, name=name, mode="lines+markers"), row=1, col=column)
    figure.update_xaxes(title="epoch")
    return _sized(figure, "Training", 1000, 450)


def evaluation_figures(evaluation: Evaluation, names: Mapping[str, str]) -> dict[str, go.Figure]:
    """All figures of an evaluation by name. names: code -> name for people; may be empty."""
    classes = [f"{code} {names.get(str(code), '')}".strip() for code in evaluation.codes]
    return {
        "class_f1": class_f1(evaluation, classes),
        "confusion": confusion(np.array(evaluation.confusion), classes),
        "reliability": reliability({name: system.reliability for name, system in evaluation.systems.items()}),
    }


def class_f1(evaluation: Evaluation, classes: Sequence[str]) -> go.Figure:
    """F1 of each class: a bar for the fused system, a mark for each other. Best class on top."""
    fused = evaluation.systems[FUSED].classes
    order = np.argsort([score.f1 for score in fused], kind="stable")
    labels = [f"{classes[i]} ({fused[i].support})" for i in order]
    figure = go.Figure(go.Bar(y=labels, x=[fused[i].f1 for i in order], orientation="h", name=FUSED, opacity=0.6))
    for name, system in evaluation.systems.items():
        if name != FUSED:
            marks = [system.classes[i].f1 for i in order]
            figure.add_trace(go.Scatter(y=labels, x=marks, mode="markers", name=name))
    figure.update_xaxes(title="F1", range=[-0.02, 1.02])
    figure.update_yaxes(title="class (test rows)", type="category", dtick=1)
    return _sized(figure, "F1 by class", 900, 220 + 20 * len(labels))


def confusion(counts: NDArray, classes: Sequence[str]) -> go.Figure:
    """(K, K) counts, rows true and columns predicted; colour is the share of the true class."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(classes) <= MAX_CLASSES_WITH_COUNTS
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=classes,
            y=classes,
            text=np.where(counts > 0, counts.astype(str), ""),
            texttemplate="%{text}" if few else None,
            hovertemplate="true %{y}<br>predicted %{x}<br>%{text} rows, %{z:.0%}<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            colorbar={"title": "share of<br>true class", "tickformat": ".0%"},
        )
    )
    figure.update_xaxes(title="predicted", type="category", dtick=1, tickangle=-60)
    figure.update_yaxes(title="true", type="category", dtick=1, autorange="reversed")
    side = 300 + (26 if few else 14) * len(classes)
    figure.update_layout(font_size=12 if few else 9)
    return _sized(figure, "Confusion matrix of the fused system", side + 150, side)


def reliability(curves: Mapping[str, Reliability]) -> go.Figure:
    """Accuracy over confidence, a curve each: systems side by side, or one before and after its temperature."""
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], line={"dash": "dot", "color": "grey"}, name="perfect"))
    for name, curve in curves.items():
        most = max(part.count for part in curve.bins)
        figure.add_trace(
            go.Scatter(
                x=[part.confidence for part in curve.bins],
                y=[part.accuracy for part in curve.bins],
                mode="lines+markers",
                # a mark's area is the share of the rows
                marker_size=[4 + 14 * (part.count / most) ** 0.5 for part in curve.bins],
                text=[f"{part.count} rows" for part in curve.bins],
                name=f"{name}, ECE {curve.ece:.3f}",
            )
        )
    figure.update_xaxes(title="confidence", range=[0, 1])
    figure.update_yaxes(title="accuracy", range=[-0.03, 1.03])
    return _sized(figure, "Reliability", 700, 550)


def png(figure: go.Figure) -> bytes:
    """The figure as a PNG, rendered offline by kaleido."""
    with warnings.catch_warnings():
        # kaleido 0.2.1 starts its thread by setDaemon(), deprecated since Python 3.10
        warnings.simplefilter("ignore", DeprecationWarning)
        return figure.to_image(format="png", scale=1.5)


def _sized(figure: go.Figure, title: str, width: int, height: int) -> go.Figure:
    return figure.update_layout(title=title, width=width, height=height, template="plotly_white", showlegend=True)
