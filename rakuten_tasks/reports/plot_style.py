"""Style of all plots: one template, and one colour for each system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

GREY = "#8a8f98"
COLOURS = {
    "pool": "#2f6fb0",
    "full_pool": "#90b4d6",
    "bag": "#3f9b57",
    "lstm": "#7cb342",
    "encoder": "#00897b",
    "bag_encoder": "#1b5e20",
    "transformer": "#26a69a",
    "photo": "#d9822b",
    "vgg16": "#a65d13",
    "tfidf_svm": "#8a6bbf",
    "most_frequent": GREY,
}
SYMBOLS = {"photo": "diamond", "vgg16": "diamond-open", "tfidf_svm": "x-thin", "lstm": "circle-open"}
STEP_COLOURS = ("#d9822b", "#2f6fb0", "#3f9b57", "#8a6bbf", "#c4cad1")

_AXIS = {
    "automargin": True,
    "gridcolor": "#e9ebee",
    "linecolor": "#b5bac1",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#b5bac1",
    "zeroline": False,
    "title": {"standoff": 8},
}
# plotly's own templates would add 7 KB to every figure
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "size": 12, "color": "#24292f"},
        "title": {
            "x": 0,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 22, "l": 4},
            "font": {"size": 15},
        },
        "colorway": ["#2f6fb0", "#d9822b", "#3f9b57", "#8a6bbf", GREY],
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 60, "r": 20, "t": 72, "b": 50},
        "hoverlabel": {"align": "left"},
    }
)


def with_size(figure: go.Figure, title: str, width: int, height: int, legend: bool = True) -> go.Figure:
    """Apply title, size and template. width, height: pixels; a page may make the figure narrower."""
    return figure.update_layout(title_text=title, width=width, height=height, template=TEMPLATE, showlegend=legend)


def horizontal_bars(names: Sequence[str], values: Sequence[float], **options: Any) -> go.Figure:
    """Plot a bar for each name, the last on top, with its text beside it. options: of go.Bar."""
    options["hovertemplate"] += "<extra></extra>"  # without the name of the trace
    figure = go.Figure(go.Bar(y=names, x=values, orientation="h", textposition="outside", cliponaxis=False, **options))
    return figure.update_yaxes(type="category", dtick=1)


def style_of(system: str) -> dict[str, Any]:
    """Return a trace's colour and marker, the same in every figure; plotly's own colour for an unknown name."""
    colour = COLOURS.get(system)
    # a thin marker consists of its outline
    outline = {"width": 2, "color": colour} if SYMBOLS.get(system) == "x-thin" else {}
    return {"marker": {"color": colour, "symbol": SYMBOLS.get(system), "line": outline}, "line_color": colour}
