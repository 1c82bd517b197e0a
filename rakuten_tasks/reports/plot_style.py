"""Style of all plots: one template, one colour a system."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

GREY = "#8a8f98"
COLOURS = {
    "pool": "#2f6fb0",
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
# plotly's own templates would put 7 KB into every figure.
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


def with_size(figure: go.Figure, title: str, width: int, height: int) -> go.Figure:
    """The figure in the house's look. width, height: pixels; a page may make it narrower."""
    return figure.update_layout(title_text=title, width=width, height=height, template=TEMPLATE, showlegend=True)


def style_of(system: str) -> dict[str, Any]:
    """A trace's colour and mark, the same for a system in every figure; plotly's own for other names."""
    colour = COLOURS.get(system)
    # a thin mark has an outline and nothing else
    outline = {"width": 2, "color": colour} if SYMBOLS.get(system) == "x-thin" else {}
    return {"marker": {"color": colour, "symbol": SYMBOLS.get(system), "line": outline}, "line_color": colour}
