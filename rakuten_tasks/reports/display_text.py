"""Sellers' texts, shortened and made safe for labels."""

from __future__ import annotations

# They turn the direction of what follows them, beyond the text's own end: a probability of 0.98 would read 89.0.
DIRECTIONS = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
REMOVED = dict.fromkeys((0, *DIRECTIONS))


def truncate(text: str, length: int) -> str:
    """The text's beginning, on one line and read from left to right."""
    line = " ".join(text[: 4 * length].translate(REMOVED).split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"
