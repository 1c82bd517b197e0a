"""The figures people look at: plotly, and PNG where a page cannot run it. The same ones in MLflow and in Decks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rakuten_tasks.classifier.evaluation import FUSED, Evaluation, Reliability
from rakuten_tasks.classifier.fusion import WeightSearch
from rakuten_tasks.labels import cut
from rakuten_tasks.plot_style import COLOURS, GREY, STEP_COLOURS, sized, style_of

if TYPE_CHECKING:
    from rakuten_tasks.classifier.training import Epoch

# Counts are written into the confusion matrix up to this many classes; above it they would be dust.
MAX_CLASSES_WITH_COUNTS = 40
LETTER = 7  # pixels, on average, of a label
# With more, an axis label is under 10 px high on a laptop: the classes with fewest test rows are drawn as one.
MAX_CLASSES_DRAWN = 80
OTHERS = "all other classes"
MAX_LABEL = 44  # letters: longer ones would leave the bars no room
# An exact curve has a step for each answer that changes, up to hundreds of thousands; a screen has 1,366 columns.
COLUMNS = 1000


def fusion_curve(search: WeightSearch, mixed: str = "text") -> go.Figure:
    """Weighted F1 over the weight of all branches but the last (`mixed`), exact, with the plateau and the choice."""
    starts, scores = _steps(search)
    figure = go.Figure(
        go.Scatter(
            x=np.append(starts, search.edges[-1]),
            y=np.append(scores, scores[-1]),
            line={"shape": "hv", "width": 1.5},
            mode="lines",
            hovertemplate="weight %{x:.3f}: F1 %{y:.4f}<extra></extra>",
        )
    )
    figure.add_vrect(x0=search.low, x1=search.high, fillcolor="green", opacity=0.12, line_width=0)
    figure.add_vline(search.weight, line_dash="dash")
    figure.update_xaxes(title=f"weight of {mixed}", range=[0, 1])
    figure.update_yaxes(title="weighted F1 on validation B")
    title = (
        f"Weight chosen: {search.weight:.3f}, the centre of [{search.low:.3f}, {search.high:.3f}]"
        f"<br><sup>within a standard error ({search.standard_error:.3f}) of the best, {search.optimum:.3f}</sup>"
    )
    return sized(figure, title, 1000, 460).update_layout(showlegend=False)


def _steps(search: WeightSearch) -> tuple[NDArray, NDArray]:
    """Where each step starts, and its score; of very many, the lowest and the highest of each column of the screen."""
    starts, scores = search.edges[:-1], search.scores
    if len(scores) <= 2 * COLUMNS:
        return starts, scores
    column = np.minimum((starts * COLUMNS).astype(int), COLUMNS - 1)
    by_score = np.lexsort((scores, column))  # within a column, the lowest first
    first = np.flatnonzero(np.diff(column[by_score], prepend=-1))
    last = np.append(first[1:], len(scores)) - 1
    kept = np.unique(np.concatenate([by_score[first], by_score[last]]))
    return starts[kept], scores[kept]


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
    figure.update_xaxes(title="epoch", dtick=max(1, len(epochs) // 10))
    return sized(figure, "Training", 1200, 400)


def training_pace(epochs: Sequence[Epoch]) -> go.Figure:
    """Learning rate and seconds by step of each epoch, as parts of the whole."""
    numbers = [epoch.number for epoch in epochs]
    figure = make_subplots(rows=1, cols=2, subplot_titles=("learning rate (last step)", "time by step (s)"))
    rates = go.Scatter(x=numbers, y=[epoch.learning_rate for epoch in epochs], mode="lines+markers", showlegend=False)
    figure.add_trace(rates, row=1, col=1)
    for (name, values), colour in zip(seconds_by_step(epochs).items(), STEP_COLOURS, strict=True):
        figure.add_trace(go.Bar(x=numbers, y=values, name=name, marker_color=colour), row=1, col=2)
    figure.update_xaxes(title="epoch", dtick=max(1, len(epochs) // 10))
    figure.update_yaxes(exponentformat="power", row=1, col=1)
    return sized(figure, "Learning rate and time", 1200, 400).update_layout(barmode="stack")


def seconds_by_step(epochs: Sequence[Epoch]) -> dict[str, list[float]]:
    """Seconds of each epoch by what they were spent on; "other" is what was not measured apart."""
    parts = {
        "read": [epoch.read_seconds for epoch in epochs],
        "compute": [epoch.compute_seconds for epoch in epochs],
        "validate": [epoch.validate_seconds for epoch in epochs],
        "save": [epoch.save_seconds for epoch in epochs],
    }
    measured = [sum(seconds) for seconds in zip(*parts.values(), strict=True)]
    parts["other"] = [max(0.0, epoch.seconds - known) for epoch, known in zip(epochs, measured, strict=True)]
    return parts


def evaluation_figures(evaluation: Evaluation, names: Mapping[str, str]) -> dict[str, go.Figure]:
    """All figures of an evaluation by name. names: code -> name for people; may be empty."""
    classes = [class_label(code, names) for code in evaluation.codes]
    return {
        "class_f1": class_f1(evaluation, classes),
        "confusion": confusion(np.array(evaluation.confusion), classes),
        "reliability": reliability({name: system.reliability for name, system in evaluation.systems.items()}),
    }


def class_label(code: int, names: Mapping[str, str]) -> str:
    """The code, and as much of its name as an axis has room for; escaped, as plotly takes "<a href=...>" for a link."""
    return escape(cut(f"{code} {names.get(str(code), '')}", MAX_LABEL), quote=False)


def most_frequent(rows: Sequence[int] | NDArray) -> NDArray:
    """The classes that are drawn, ascending: those with most rows, at most MAX_CLASSES_DRAWN of them."""
    return np.sort(np.argsort(-np.asarray(rows), kind="stable")[:MAX_CLASSES_DRAWN])


def intervals(evaluation: Evaluation) -> go.Figure:
    """Each metric of each system with its interval, a panel a metric; the fused system on top."""
    titles = [metric.replace("_", " ").replace("f1", "F1") for metric in evaluation.METRICS]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, shared_yaxes=True)
    ranked = sorted(evaluation.systems.items(), key=lambda item: item[0] != FUSED)
    for name, system in ranked[::-1]:  # plotly's categories grow upwards
        for column, metric in enumerate(system.metrics, start=1):
            error = {"type": "data", "array": [metric.high - metric.value], "arrayminus": [metric.value - metric.low]}
            point = go.Scatter(x=[metric.value], y=[name], error_x=error, marker_size=9, mode="markers", name=name)
            point.update(hovertemplate=f"{metric}<extra>%{{y}}</extra>", **style_of(name))
            figure.add_trace(point, row=1, col=column)
    figure.update_yaxes(range=[-0.5, len(evaluation.systems) - 0.5])
    return sized(figure, "", 1200, 110 + 30 * len(evaluation.systems)).update_layout(showlegend=False, margin_t=40)


def class_f1(evaluation: Evaluation, classes: Sequence[str]) -> go.Figure:
    """F1 of each class: a bar for the fused system, a mark for each other. Best class on top."""
    fused = evaluation.systems[FUSED].classes
    drawn = most_frequent([score.support for score in fused])
    order = drawn[np.argsort([fused[i].f1 for i in drawn], kind="stable")]
    labels = [f"{classes[i]} ({fused[i].support})" for i in order]
    bar = {"orientation": "h", "opacity": 0.6, "marker_color": COLOURS[FUSED]}
    figure = go.Figure(go.Bar(y=labels, x=[fused[i].f1 for i in order], name=FUSED, **bar))
    for name, system in evaluation.systems.items():
        if name != FUSED:
            marks = [system.classes[i].f1 for i in order]
            figure.add_trace(go.Scatter(y=labels, x=marks, mode="markers", name=name, **style_of(name)))
    figure.update_xaxes(title="F1", range=[-0.02, 1.02])
    # half a category of room at either end, not the 5 % that a scatter asks for
    figure.update_yaxes(title="class (test rows)", type="category", dtick=1, range=[-0.7, len(labels) - 0.3])
    return sized(figure, f"F1 by class{_of(drawn, classes)}", 1000, 220 + 20 * len(labels))


def _of(drawn: NDArray, classes: Sequence[str]) -> str:
    return "" if len(drawn) == len(classes) else f", the {len(drawn)} of {len(classes)} with most test rows"


def confusion(counts: NDArray, classes: Sequence[str]) -> go.Figure:
    """(K, K) counts, rows true and columns predicted; colour is the share of the true class."""
    drawn = most_frequent(counts.sum(1))
    title = f"Confusion matrix of the fused system{_of(drawn, classes)}"
    if len(drawn) < len(classes):
        group = np.full(len(classes), len(drawn))
        group[drawn] = np.arange(len(drawn))
        merge = np.eye(len(drawn) + 1, dtype=int)[group]  # (K, drawn + 1)
        counts, classes = merge.T @ counts @ merge, [*(classes[i] for i in drawn), OTHERS]
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
            xgap=1,
            ygap=1,
            colorbar={"title": "share of<br>true class", "tickformat": ".0%"},
        )
    )
    figure.update_xaxes(title="predicted", type="category", dtick=1, tickangle=-60 if few else -90, showgrid=False)
    figure.update_yaxes(title="true", type="category", dtick=1, autorange="reversed", showgrid=False)
    if not few:
        # there is room for the codes alone
        codes = [label.split()[0] if label != OTHERS else "others" for label in classes]
        figure.update_xaxes(tickmode="array", tickvals=list(range(len(classes))), ticktext=codes)
    labels, cells = LETTER * max(map(len, classes)) if few else 60, max(300, (26 if few else 14) * len(classes))
    return sized(figure, title, labels + cells + 190, labels + cells + 150).update_layout(font_size=12 if few else 9)


def reliability(curves: Mapping[str, Reliability]) -> go.Figure:
    """Accuracy over confidence, a curve each: systems side by side."""
    figure = go.Figure(_perfect())
    for name, curve in curves.items():
        figure.add_trace(_curve(curve, f"{name}, ECE {curve.ece:.3f}").update(**style_of(name)))
    figure.update_xaxes(title="confidence", range=[0, 1])
    figure.update_yaxes(title="accuracy", range=[-0.03, 1.03])
    return sized(figure, "Reliability", 700, 550)


def calibration(before: Mapping[str, Reliability], after: Mapping[str, Reliability]) -> go.Figure:
    """Reliability of each system in `before`, a panel each: before its temperature and after."""
    titles = [f"{name}: ECE {before[name].ece:.3f}, after {after[name].ece:.3f}" for name in before]
    figure = make_subplots(rows=1, cols=len(before), subplot_titles=titles, shared_yaxes=True)
    for column, name in enumerate(before, start=1):
        figure.add_trace(_perfect().update(showlegend=column == 1, legendgroup="perfect"), row=1, col=column)
        for state, curve, colour in (("before", before[name], "#d9822b"), ("after", after[name], "#2f6fb0")):
            trace = _curve(curve, state).update(line_color=colour, showlegend=column == 1, legendgroup=state)
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title="confidence", range=[0, 1.02])
    figure.update_yaxes(range=[-0.03, 1.03]).update_yaxes(title="accuracy", col=1)
    return sized(figure, "Reliability before and after the temperature", 1200, 440)


def _perfect() -> go.Scatter:
    return go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": GREY}, name="perfect")


def _curve(curve: Reliability, name: str) -> go.Scatter:
    most = max(part.count for part in curve.bins)
    return go.Scatter(
        x=[part.confidence for part in curve.bins],
        y=[part.accuracy for part in curve.bins],
        mode="lines+markers",
        # a mark's area is the share of the rows
        marker_size=[4 + 14 * (part.count / most) ** 0.5 for part in curve.bins],
        text=[f"{part.count} rows" for part in curve.bins],
        name=name,
    )


def png(figure: go.Figure) -> bytes:
    """The figure as a PNG, rendered offline by kaleido."""
    with warnings.catch_warnings():
        # kaleido 0.2.1 starts its thread by setDaemon(), deprecated since Python 3.10
        warnings.simplefilter("ignore", DeprecationWarning)
        return figure.to_image(format="png", scale=1.5)
