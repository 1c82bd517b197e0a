"""Building blocks of a Deck: one HTML string that needs no network, alone or as a tab of Flyte's deck.html.

Every block is Markup; whatever else is put into one is escaped, as sellers write what they like into their titles.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

# base64 would take 111 KB more, of the 227 KB that 2 MB leave beside plotly.js. "<" and "&" mean something in HTML.
BASE85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
ALPHABET = BASE85.translate(bytes.maketrans(b"<>&$`", b",./:["))
DIGITS = 5  # significant ones: a figure shows no more, and 0.30000000000000004 costs
TILE = 140  # px, at least


@dataclass(frozen=True)
class Tile:
    """A small picture with lines of text below it, the first one in bold. image: a data URI; None shows `blank`."""

    image: str | None
    lines: Sequence[str]
    blank: str = "no photo"


def deck(title: str, blocks: Iterable[Markup]) -> str:
    """One fragment with its own style, and with plotly.js if it has a figure."""
    body = Markup("\n").join(blocks)
    script = Markup("")
    if '<div class="rk-figure"' in body:
        script = Markup("{}\n<script>\n{}</script>").format(_plotly(), _asset("page.js"))
    whole = Markup('<div class="rakuten-deck"><style>\n{}</style>\n<h1>{}</h1>\n{}\n{}</div>')
    return str(whole.format(_asset("page.css"), title, body, script))


def standalone(title: str, fragment: str) -> str:
    """A whole page around a fragment."""
    page = Markup(
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body {{ margin: 0; padding: 20px 24px; background: #fff }}</style></head>\n"
        "<body>\n{}\n</body>\n</html>\n"
    )
    return str(page.format(title, Markup(fragment)))


def heading(text: str) -> Markup:
    """Opens a section."""
    return Markup("<h2>{}</h2>").format(text)


def caption(text: str) -> Markup:
    """What a reader must know to read the block beside it."""
    return Markup('<p class="rk-note">{}</p>').format(text)


def callout(text: str) -> Markup:
    """What a reader must not miss."""
    return Markup('<p class="rk-notice">{}</p>').format(text)


def key_values(values: Mapping[str, object]) -> Markup:
    """The figures to be seen first, each with its name."""
    items = (
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, format_number(value)) for name, value in values.items()
    )
    return Markup('<dl class="rk-facts">{}</dl>').format(Markup("").join(items))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Markup:
    """A row a line. Numbers stand to the right, each column under its heading."""
    rows = [list(row) for row in rows]
    numeric = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(columns))]
    head = _row("th", columns, numeric)
    body = Markup("\n").join(_row("td", map(format_number, row), numeric) for row in rows)
    title = Markup("<caption>{}</caption>").format(caption) if caption else ""
    return Markup("<table>{}<thead>{}</thead><tbody>{}</tbody></table>").format(title, head, body)


def _row(tag: str, cells: Iterable[str], numeric: Sequence[bool]) -> Markup:
    opened = (Markup(f'<{tag} class="rk-number">' if right else f"<{tag}>") for right in numeric)
    closed = Markup(f"</{tag}>")
    return Markup("<tr>{}</tr>").format(
        Markup("").join(start + cell + closed for start, cell in zip(opened, cells, strict=True))
    )


def tiles(pictures: Iterable[Tile], width: int = TILE) -> Markup:
    """Pictures in as many columns as fit. width: pixels, at least."""
    return Markup('<div class="rk-tiles" style="--rk-tile: {}px">{}</div>').format(
        width, Markup("\n").join(map(_tile, pictures))
    )


def _tile(tile: Tile) -> Markup:
    blank = Markup('<div class="rk-blank">{}</div>').format(tile.blank)
    image = Markup('<img src="{}" alt="">').format(tile.image) if tile.image else blank
    lines = (
        Markup('<div class="{}">{}</div>').format("rk-line" if i else "rk-lead", line)
        for i, line in enumerate(tile.lines)
    )
    return Markup('<div class="rk-tile">{}{}</div>').format(image, Markup("").join(lines))


def side_by_side(*blocks: Markup) -> Markup:
    """Blocks beside each other, two in a line."""
    cells = (Markup("<div>{}</div>").format(block) for block in blocks)
    return Markup('<div class="rk-pair">{}</div>').format(Markup("").join(cells))


def figure(drawing: go.Figure) -> Markup:
    """A plotly figure: as high as it says, as wide as the page lets it be and at most as wide as it says."""
    content = drawing.to_plotly_json()
    layout = dict(content["layout"])
    width, height = layout.pop("width"), layout.pop("height")
    text = json.dumps(to_compact_json({"data": content["data"], "layout": layout}), separators=(",", ":"))
    for letter in "<>&":  # nothing in a script element is unescaped, and "</script>" would end it
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(
        '<div class="rk-figure" style="max-width: {}px; height: {}px">'
        '<p class="rk-missing">This figure is drawn by JavaScript.</p>'
        '<script type="application/json" class="rk-json">{}</script></div>'
    ).format(width, height, Markup(text))


def to_compact_json(value: object) -> object:
    """Plain lists and short numbers; null for what is no number."""
    if isinstance(value, dict):
        return {key: to_compact_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return to_compact_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_compact_json(inner) for inner in value]
    if isinstance(value, np.generic):
        return to_compact_json(value.item())
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
        return int(short) if short is not None and short.is_integer() and abs(short) < 1e15 else short
    return value


def format_number(value: object) -> str:
    """A number as people read it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _asset(name: str) -> Markup:
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@functools.cache
def _plotly() -> Markup:
    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)
    text = base64.b85encode(packed, pad=True).translate(bytes.maketrans(BASE85, ALPHABET)).decode()
    block = Markup('<script type="text/plain" class="rk-plotly" data-bytes="{}" data-alphabet="{}">{}</script>')
    return block.format(len(packed), ALPHABET.decode(), Markup(text))
