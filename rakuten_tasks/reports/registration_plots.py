"""Plot of the paired bootstrap behind the gate's decision."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rakuten_tasks.reports.plot_style import with_size

BINS = 50


def paired_histogram(differences: Mapping[str, NDArray], margin: float) -> go.Figure:
    """How far the new version is ahead of each rival, over the resamples, and the loss that is allowed.

    differences: (resamples,) by rival. The same bins for all.
    """
    everything = np.concatenate([*differences.values(), [-margin]])
    low, high = everything.min(), everything.max()
    edges = np.linspace(low, high if high > low else low + 0.01, BINS + 1)
    figure = go.Figure()
    for name, values in differences.items():
        share = np.histogram(values, edges)[0] / len(values)
        figure.add_trace(
            go.Bar(x=edges[:-1], y=share, width=np.diff(edges), offset=0, name=escape(name, quote=False), opacity=0.6)
        )
    figure.add_vline(-margin, line_dash="dash", annotation_text=f"{0 - margin:g}", annotation_position="top")
    figure.update_xaxes(title="weighted F1 of the new version less the rival's")
    figure.update_yaxes(title="share of the resamples", tickformat=".0%")
    return with_size(figure, "Lead over each rival", 1000, 420).update_layout(barmode="overlay")
