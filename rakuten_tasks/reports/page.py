"""Renders Decks with Jinja2: one HTML string that needs no network, alone or as a tab of Flyte's deck.html.

The templates escape every value, because sellers write what they like into their titles.
"""

from __future__ import annotations

import base64
import functools
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

DIGITS = 5  # significant digits in a figure's JSON: it shows no more, and 0.30000000000000004 takes space


@dataclass(frozen=True)
class Tile:
    """A small picture with lines of text below it, the first in bold. image: a data URI; None shows `placeholder`."""

    image: str | None
    lines: Sequence[str]
    placeholder: str = "no photo"


def render(template: str, **context: object) -> str:
    """Render a template of reports/templates. Raises jinja2.UndefinedError if the context lacks a name."""
    return environment().get_template(template).render(context)


def standalone(title: str, fragment: str) -> str:
    """Put a fragment that `render` made into a page of its own."""
    return render("page.html", title=title, fragment=Markup(fragment))


@functools.cache
def environment() -> Environment:
    """Create the Jinja2 environment of all templates."""
    loader = PackageLoader("rakuten_tasks.reports")
    result = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    result.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    result.filters |= {"number": format_number, "figure_data": figure_data}
    result.globals["plotly_base64"] = plotly_base64
    return result


def figure_data(plot: go.Figure) -> object:
    """Traces and layout of a figure for JSON, without its width and height, which the page sets."""
    content = plot.to_plotly_json()
    layout = {name: value for name, value in content["layout"].items() if name not in ("width", "height")}
    return to_compact_json({"data": content["data"], "layout": layout})


def to_compact_json(value: object) -> object:
    """Convert arrays to lists, shorten numbers to DIGITS, and replace NaN and infinity by None."""
    if isinstance(value, dict):
        return {key: to_compact_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_compact_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_compact_json(inner) for inner in value]
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        return int(short) if short is not None and short.is_integer() and abs(short) < 1e15 else short
    return value


def format_number(value: object) -> str:
    """Format an integer with thousands separators and a float with 4 digits; anything else with str."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@functools.cache
def plotly_base64() -> str:
    """Return plotly.js, compressed with gzip, as base64: 1.77 MB."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
