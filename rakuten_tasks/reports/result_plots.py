"""Plots of pool and evaluation, for Decks and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rakuten_tasks.evaluation.metrics import MOST_FREQUENT, POOL, Evaluation, PhotoGain, Reliability, SystemMetrics
from rakuten_tasks.models.cascade import StageReport
from rakuten_tasks.models.pool_report import PoolReport
from rakuten_tasks.reports.display_text import axis_label
from rakuten_tasks.reports.plot_style import COLOURS, GREY, STEP_COLOURS, style_of, with_size

MAX_CLASSES_WITH_COUNTS = 40  # the confusion matrix shows counts for at most so many classes; more would be unreadable
LETTER = 7  # mean width of a label's letter, in pixels
# With more classes, an axis label is under 10 px high on a laptop: those with the fewest test rows are merged
MAX_CLASSES = 80
OTHERS = "all other classes"
PANELS = 4  # reliability diagrams in a line


def pool_figures(report: PoolReport) -> dict[str, go.Figure]:
    """Plot a pool by name of the plot: its weights, and what each member adds if that was measured."""
    figures = {"pool_weights": pool_weights(report)}
    if any(report.adds(name) for name in report.members):
        figures["pool_gains"] = pool_gains(report)
    if report.stages:
        figures["pool_cascade"] = pool_cascade(report.stages)
    return figures


def pool_cascade(stages: Sequence[StageReport]) -> go.Figure:
    """Plot share settled and weighted F1 over the threshold: a line for each stage, the chosen threshold marked."""
    titles = ("share of the products that the stage settles", "weighted F1 of the cascade")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    for number, stage in enumerate(stages):
        colour = STEP_COLOURS[number % len(STEP_COLOURS)]
        name = f"{stage.stage}, of products with {stage.modalities.replace('+', ' and ')}"
        for column, attribute in enumerate(("coverage", "weighted_f1"), start=1):
            for marked, points in ((False, stage.points), (True, [stage.chosen] if stage.chosen else [])):
                trace = go.Scatter(
                    x=[point.threshold for point in points],
                    y=[getattr(point, attribute) for point in points],
                    mode="markers" if marked else "lines",
                    name=f"{name}: chosen" if marked else name,
                    marker={"color": colour, "size": 11, "symbol": "diamond"},
                    line_color=colour,
                    legendgroup=name,
                    showlegend=column == 1,
                )
                figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(title="threshold: confidence of the stage").update_yaxes(range=[-0.02, 1.02], col=1)
    return with_size(figure, "The cascade", 1000, 480).update_layout(legend={"orientation": "h", "y": -0.2})


def pool_weights(report: PoolReport) -> go.Figure:
    """Plot a group of bars for each set of modalities, one bar a member; the line is the weight of a member alone."""
    modalities = list(report.weights)
    figure = go.Figure()
    for name in report.members:
        heights = [report.weights[key].get(name) for key in modalities]
        labels = ["" if height is None else f"{height:.2f}" for height in heights]
        bar = go.Bar(x=modalities, y=heights, name=name, text=labels, marker_color=COLOURS.get(name))
        figure.add_trace(bar.update(hovertemplate="%{y:.3f}<extra>%{fullData.name}, %{x}</extra>"))
    figure.add_hline(1, line_dash="dot", line_color=GREY)
    figure.update_xaxes(title="modalities of the product, or stage of the cascade", type="category")
    figure.update_yaxes(title="weight, relative to the member alone", rangemode="tozero")
    return with_size(figure, "Weights of the pool", 1000, 420)


def pool_gains(report: PoolReport) -> go.Figure:
    """Plot what each member adds to the others: a panel for log loss and one for weighted F1."""
    titles = ("decrease of log loss (nats)", "increase of weighted F1")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, shared_yaxes=True)
    gains = {name: gain for name in reversed(report.members) if (gain := report.adds(name))}
    colours = [COLOURS.get(name, GREY) for name in gains]
    for column in (0, 1):
        bar = go.Bar(y=list(gains), x=[gain[column] for gain in gains.values()], orientation="h", marker_color=colours)
        figure.add_trace(bar.update(hovertemplate="%{x:+.4f}<extra>%{y}</extra>"), row=1, col=column + 1)
    figure.update_xaxes(zeroline=True, zerolinecolor=GREY)
    return with_size(figure, "What each member adds to the others", 1000, 150 + 30 * len(gains), legend=False)


def evaluation_figures(evaluation: Evaluation, names: Mapping[str, str]) -> dict[str, go.Figure]:
    """Plot an evaluation by name of the plot. names: code -> name; may be empty."""
    classes = [axis_label(code, names) for code in evaluation.codes]
    figures = {
        "class_f1": class_f1(evaluation, classes),
        "confusion": confusion(np.array(evaluation.confusion), classes),
        "reliability": reliability({name: system.reliability for name, system in compared(evaluation).items()}),
    }
    if evaluation.photo_gain:
        figures["photo_gain"] = photo_gain(evaluation.photo_gain)
    return figures


def compared(evaluation: Evaluation) -> dict[str, SystemMetrics]:
    """Select the systems to plot, the pool first: without the baseline that ignores its input and needs a wide axis."""
    systems = {name: system for name, system in evaluation.systems.items() if name != MOST_FREQUENT}
    return {POOL: systems[POOL], **systems}


def most_frequent(rows: Sequence[int] | NDArray) -> NDArray:
    """Return the indices, ascending, of the MAX_CLASSES classes with the most rows."""
    return np.sort(np.argsort(-np.asarray(rows), kind="stable")[:MAX_CLASSES])


def intervals(evaluation: Evaluation) -> go.Figure:
    """Plot each metric of each system with its interval: a panel for each metric, the pool on top."""
    titles = [metric.replace("_", " ").replace("f1", "F1") for metric in evaluation.METRICS]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, shared_yaxes=True)
    systems = compared(evaluation)
    for name in reversed(systems):  # plotly draws the first category at the bottom
        for column, metric in enumerate(systems[name].metrics, start=1):
            error = {"type": "data", "array": [metric.high - metric.value], "arrayminus": [metric.value - metric.low]}
            point = go.Scatter(x=[metric.value], y=[name], error_x=error, marker_size=9, mode="markers", name=name)
            point.update(hovertemplate=f"{metric}<extra>%{{y}}</extra>", **style_of(name))
            figure.add_trace(point, row=1, col=column)
    figure.update_yaxes(range=[-0.5, len(systems) - 0.5])
    return with_size(figure, "", 1200, 110 + 30 * len(systems), legend=False).update_layout(margin_t=40)


def class_f1(evaluation: Evaluation, classes: Sequence[str]) -> go.Figure:
    """Plot the F1 of each class: a bar for the pool, a marker for each other system. Best class on top."""
    scores = evaluation.systems[POOL].classes
    shown = most_frequent([score.support for score in scores])
    order = shown[np.argsort([scores[i].f1 for i in shown], kind="stable")]
    labels = [f"{classes[i]} ({scores[i].support})" for i in order]
    bar = {"orientation": "h", "opacity": 0.6, "marker_color": COLOURS[POOL]}
    figure = go.Figure(go.Bar(y=labels, x=[scores[i].f1 for i in order], name=POOL, **bar))
    for name, system in compared(evaluation).items():
        if name != POOL:
            f1 = [system.classes[i].f1 for i in order]
            figure.add_trace(go.Scatter(y=labels, x=f1, mode="markers", name=name, **style_of(name)))
    figure.update_xaxes(title="F1", range=[-0.02, 1.02])
    # half a category of room at either end instead of the 5 % of a scatter plot
    figure.update_yaxes(title="class (test rows)", type="category", dtick=1, range=[-0.7, len(labels) - 0.3])
    return with_size(figure, f"F1 by class{_describe_selection(shown, classes)}", 1000, 220 + 20 * len(labels))


def _describe_selection(shown: NDArray, classes: Sequence[str]) -> str:
    return "" if len(shown) == len(classes) else f", the {len(shown)} of {len(classes)} with the most test rows"


def merge_rare_classes(counts: NDArray, classes: Sequence[str], shown: NDArray) -> tuple[NDArray, list[str]]:
    """Sum the rows and columns of the classes that are not shown. (K, K) -> (S + 1, S + 1) if any class is merged."""
    if len(shown) == len(classes):
        return counts, list(classes)
    group = np.full(len(classes), len(shown))
    group[shown] = np.arange(len(shown))
    merge = np.eye(len(shown) + 1, dtype=int)[group]  # (K, S + 1)
    return merge.T @ counts @ merge, [*(classes[i] for i in shown), OTHERS]


def confusion(counts: NDArray, classes: Sequence[str]) -> go.Figure:
    """Plot (K, K) counts, rows true and columns predicted, coloured by the share of the true class."""
    shown = most_frequent(counts.sum(1))
    title = f"Confusion matrix of the pool{_describe_selection(shown, classes)}"
    counts, classes = merge_rare_classes(counts, classes, shown)
    few = len(classes) <= MAX_CLASSES_WITH_COUNTS
    figure = go.Figure(
        go.Heatmap(
            z=counts / np.maximum(counts.sum(1, keepdims=True), 1),
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
        # only the codes fit
        codes = [label.split()[0] if label != OTHERS else "others" for label in classes]
        figure.update_xaxes(tickmode="array", tickvals=list(range(len(classes))), ticktext=codes)
    labels, cells = LETTER * max(map(len, classes)) if few else 60, max(300, (26 if few else 14) * len(classes))
    return with_size(figure, title, labels + cells + 190, labels + cells + 150).update_layout(
        font_size=12 if few else 9
    )


def reliability(curves: Mapping[str, Reliability]) -> go.Figure:
    """Plot accuracy over confidence, a panel for each system."""
    rows = -(-len(curves) // PANELS)
    titles = [f"{name}: ECE {curve.ece:.3f}" for name, curve in curves.items()]
    figure = make_subplots(rows, min(PANELS, len(curves)), subplot_titles=titles, vertical_spacing=0.3 / rows)
    diagonal = go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": GREY}, name="perfect")
    for i, (name, curve) in enumerate(curves.items()):
        panel = {"row": i // PANELS + 1, "col": i % PANELS + 1}
        figure.add_trace(diagonal, **panel)
        figure.add_trace(_reliability_curve(curve, name), **panel)
    figure.update_xaxes(title="confidence", range=[0, 1.04])
    figure.update_yaxes(range=[-0.03, 1.05]).update_yaxes(title="accuracy", col=1)
    return with_size(figure, "Reliability", 1200, 110 + 300 * rows, legend=False).update_layout(margin_t=100)


def _reliability_curve(curve: Reliability, name: str) -> go.Scatter:
    most = max(part.count for part in curve.bins)
    return go.Scatter(
        x=[part.confidence for part in curve.bins],
        y=[part.accuracy for part in curve.bins],
        mode="lines+markers",
        # the area of a marker is the share of the rows
        marker_size=[4 + 14 * (part.count / most) ** 0.5 for part in curve.bins],
        text=[f"{part.count} rows" for part in curve.bins],
        name=name,
    ).update(**style_of(name))


def photo_gain(parts: Sequence[PhotoGain]) -> go.Figure:
    """Plot the accuracy of the pool with photos masked and with photos, by the confidence of the text alone."""
    labels = [f"{part.low:.2f} to {part.high:.2f}<br>{part.rows} rows" for part in parts]
    figure = go.Figure()
    for name, values, colour in (
        ("text only", [part.text_accuracy for part in parts], COLOURS["bag"]),
        ("with the photo", [part.accuracy for part in parts], COLOURS[POOL]),
    ):
        text = [f"{value:.3f}" for value in values]
        figure.add_trace(go.Bar(x=labels, y=values, name=name, marker_color=colour, text=text))
    figure.update_xaxes(title="confidence of the text alone, in quarters of the test rows", type="category")
    figure.update_yaxes(title="accuracy", range=[0, 1.05])
    return with_size(figure, "What the photo adds, by the confidence of the text", 1000, 420)
