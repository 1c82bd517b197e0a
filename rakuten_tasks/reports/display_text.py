"""Shortens sellers' texts and class names, and makes them safe for labels."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

# Marks that change the direction of the text after them: a probability of 0.98 would read 89.0.
DIRECTION_MARKS = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
REMOVED = dict.fromkeys((0, *DIRECTION_MARKS))
MAX_AXIS_LABEL = 44  # characters: longer labels would leave a plot's bars no room


def truncate(text: str, length: int) -> str:
    """Return the beginning of the text, on one line and read from left to right."""
    line = " ".join(text[: 4 * length].translate(REMOVED).split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


def class_label(code: int, names: Mapping[str, str], length: int = 60) -> str:
    """Return the code and the beginning of the class's name. names: code -> name; may be empty."""
    return truncate(f"{code} {names.get(str(code), '')}", length)


def axis_label(code: int, names: Mapping[str, str]) -> str:
    """Return the class label for a plot, escaped: plotly turns <a href=...> in a label into a link."""
    return escape(class_label(code, names, MAX_AXIS_LABEL), quote=False)
