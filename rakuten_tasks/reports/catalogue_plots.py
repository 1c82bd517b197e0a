"""Plots of a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from rakuten_tasks.data.profile import PhotoInfo
from rakuten_tasks.reports.display_text import axis_label
from rakuten_tasks.reports.plot_style import horizontal_bars, with_size

MAX_CLASSES = 60  # one bar each, 18 px high: two screens of a laptop
MAX_POINTS = 600
BINS = 40


def class_counts(counts: Mapping[int, int], names: Mapping[str, str]) -> go.Figure:
    """Plot a bar for each of the MAX_CLASSES largest classes, largest on top. names: code -> name."""
    order = sorted(counts, key=lambda code: (-counts[code], code))[:MAX_CLASSES][::-1]
    labels = [axis_label(code, names) for code in order]
    values = [counts[code] for code in order]
    figure = horizontal_bars(labels, values, text=values, texttemplate="%{text:,}", hovertemplate="%{y}: %{x:,}")
    figure.update_xaxes(title="labelled products kept", rangemode="tozero")
    figure.update_yaxes(range=[-0.7, len(labels) - 0.3])
    shown = f", the {MAX_CLASSES} largest of {len(counts):,}" if len(counts) > MAX_CLASSES else ""
    return with_size(figure, f"Products by class{shown}", 1200, 140 + 18 * len(labels), legend=False)


def text_lengths(products: Mapping[int, int], column: str) -> go.Figure:
    """Plot a histogram of lengths in characters; the bins grow with the length, which spans three decades.

    products: number of them by length. column: "title" or "description". Products without the text are left out.
    """
    present = {length: count for length, count in products.items() if length}
    longest = max(present, default=1)
    edges = np.unique(np.round(np.geomspace(1, longest + 1, BINS)).astype(int)) if longest > 1 else np.array([1, 2])
    counts = np.histogram([*present], edges, weights=[*present.values()])[0].astype(int)
    ranges = [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)]
    bar = {"customdata": ranges, "hovertemplate": "%{customdata} characters: %{y:,} products<extra></extra>"}
    # the axis shows logarithms, so that bars are as wide as their bins
    positions = np.log10(edges)
    figure = go.Figure(go.Bar(x=positions[:-1], y=counts, width=np.diff(positions), offset=0, **bar))
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000) if tick <= longest * 3]
    tick_labels = [f"{tick:,}" for tick in ticks]
    figure.update_xaxes(title=f"characters in the {column}", tickvals=np.log10(ticks), ticktext=tick_labels)
    figure.update_yaxes(title="products")
    return with_size(figure, f"Length of the {column}", 600, 320, legend=False)


def shares(values: Mapping[str, int], total: int, title: str, axis: str) -> go.Figure:
    """Plot a bar for each name, as a share of the total; the first name on top."""
    total = max(1, total)
    names = list(values)[::-1]
    heights = [values[name] / total for name in names]
    text = [f"{values[name]:,} ({values[name] / total:.1%})" for name in names]
    figure = horizontal_bars(names, heights, text=text, hovertemplate="%{y}: %{text}")
    figure.update_xaxes(title=axis, tickformat=".0%", range=[0, 1.25], tickvals=[0, 0.25, 0.5, 0.75, 1])
    return with_size(figure, title, 600, 150 + 28 * max(2, len(names)), legend=False)


def photo_sides(photos: Sequence[PhotoInfo]) -> go.Figure:
    """Plot height over width of photos: a marker for each size, larger if it is more frequent."""
    sizes, counts = np.unique([(p.width, p.height) for p in photos], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_POINTS]
    sizes, counts = sizes[order], counts[order]
    figure = go.Figure(
        go.Scatter(
            x=sizes[:, 0],
            y=sizes[:, 1],
            mode="markers",
            marker={"size": 5 + 25 * np.sqrt(counts / counts.max()), "opacity": 0.55},
            text=[f"{n:,} photos" for n in counts],
            hovertemplate="%{x} x %{y} px: %{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title="width (px)", rangemode="tozero")
    figure.update_yaxes(title="height (px)", rangemode="tozero")
    shown = f", the {MAX_POINTS} most frequent" if len(order) == MAX_POINTS else ""
    return with_size(figure, f"Photo sizes{shown}", 600, 380, legend=False)


def photo_bytes(photos: Sequence[PhotoInfo]) -> go.Figure:
    """Plot a histogram of the files' sizes."""
    counts, edges = np.histogram([photo.size / 1000 for photo in photos], BINS)
    figure = go.Figure(go.Bar(x=edges[:-1], y=counts, width=np.diff(edges), offset=0))
    figure.update_traces(hovertemplate="from %{x:.1f} KB: %{y:,} photos<extra></extra>")
    figure.update_xaxes(title="file size (KB)")
    figure.update_yaxes(title="photos")
    return with_size(figure, "Size of the photo files", 600, 380, legend=False)
