"""Plots of a catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rakuten_tasks.data.profile import PhotoInfo
from rakuten_tasks.reports.plot_style import with_size
from rakuten_tasks.reports.result_plots import class_label

# a bar each, 18 px high: 60 are two screens of a laptop
MAX_CLASSES = 60
MAX_POINTS = 600
BINS = 40


def class_counts(counts: Mapping[int, int], names: Mapping[int, str]) -> go.Figure:
    """A bar for each class, or for the MAX_CLASSES largest of them; the largest on top."""
    order = sorted(counts, key=lambda code: (-counts[code], code))[:MAX_CLASSES][::-1]
    by_text = {str(code): name for code, name in names.items()}
    labels = [class_label(code, by_text) for code in order]
    values = [counts[code] for code in order]
    figure = go.Figure(go.Bar(y=labels, x=values, orientation="h", text=values, texttemplate="%{text:,}"))
    figure.update_traces(textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{x:,}<extra></extra>")
    figure.update_xaxes(title="labelled products kept", rangemode="tozero")
    figure.update_yaxes(type="category", dtick=1, range=[-0.7, len(labels) - 0.3])
    of = f", the {MAX_CLASSES} largest of {len(counts):,}" if len(counts) > MAX_CLASSES else ""
    return _plain(figure, f"Products by class{of}", 1200, 140 + 18 * len(labels))


def text_lengths(lengths: NDArray, what: str) -> go.Figure:
    """(N,) characters -> a histogram whose bins grow with the length, as lengths spread over three decades.

    what: "title" or "description". Products without the text are left out.
    """
    present = lengths[lengths > 0]
    longest = int(present.max()) if len(present) else 1
    edges = np.unique(np.round(np.geomspace(1, longest + 1, BINS)).astype(int)) if longest > 1 else np.array([1, 2])
    counts = np.histogram(present, edges)[0]
    ranges = [f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)]
    bar = {"customdata": ranges, "hovertemplate": "%{customdata} characters: %{y:,} products<extra></extra>"}
    # bars as wide as their bins, on a log axis: positions and widths are of the logarithms
    places = np.log10(edges)
    figure = go.Figure(go.Bar(x=places[:-1], y=counts, width=np.diff(places), offset=0, **bar))
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000) if tick <= longest * 3]
    figure.update_xaxes(title=f"characters in the {what}", tickvals=np.log10(ticks), ticktext=[f"{t:,}" for t in ticks])
    figure.update_yaxes(title="products")
    return _plain(figure, f"Length of the {what}", 600, 320)


def shares(values: Mapping[str, int], total: int, title: str, axis: str) -> go.Figure:
    """A bar for each name, as a share of the total; the first one on top."""
    total = max(1, total)
    names = list(values)[::-1]
    figure = go.Figure(
        go.Bar(
            y=names,
            x=[values[name] / total for name in names],
            orientation="h",
            text=[f"{values[name]:,} ({values[name] / total:.1%})" for name in names],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title=axis, tickformat=".0%", range=[0, 1.25], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_yaxes(type="category", dtick=1)
    return _plain(figure, title, 600, 150 + 28 * max(2, len(names)))


def photo_sides(photos: Sequence[PhotoInfo]) -> go.Figure:
    """Width over height of photos, a mark for each size found and as large as it is frequent."""
    sizes, counts = np.unique([(p.width, p.height) for p in photos], axis=0, return_counts=True)
    kept = np.argsort(-counts, kind="stable")[:MAX_POINTS]
    sizes, counts = sizes[kept], counts[kept]
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
    of = f", the {MAX_POINTS} most frequent" if len(kept) == MAX_POINTS else ""
    return _plain(figure, f"Photo sizes{of}", 600, 380)


def photo_bytes(photos: Sequence[PhotoInfo]) -> go.Figure:
    """A histogram of the files' sizes."""
    counts, edges = np.histogram([photo.size / 1000 for photo in photos], BINS)
    figure = go.Figure(go.Bar(x=edges[:-1], y=counts, width=np.diff(edges), offset=0))
    figure.update_traces(hovertemplate="from %{x:.1f} KB: %{y:,} photos<extra></extra>")
    figure.update_xaxes(title="file size (KB)")
    figure.update_yaxes(title="photos")
    return _plain(figure, "Size of the photo files", 600, 380)


def _plain(figure: go.Figure, title: str, width: int, height: int) -> go.Figure:
    return with_size(figure, title, width, height).update_layout(showlegend=False)
