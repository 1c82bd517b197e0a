"""Progress of long loops: a bar where stderr is a terminal, lines in the log elsewhere, as in a pod."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 60.0  # between two lines of a loop


def on_terminal() -> bool:
    """Tell whether stderr is a terminal, which shows bars."""
    return sys.stderr.isatty()


class Progress(tqdm):
    """tqdm's bar; or a line a minute and one at the end, as "ingest: 50 of 50 products, 00:02"."""

    def __init__(self, *arguments: Any, unit: str, **options: Any) -> None:
        """unit: in the plural, after a space. The others are tqdm's."""
        self.is_bar = on_terminal()
        if not self.is_bar:
            line = "{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed}"
            # one step at least between two lines, or tqdm's monitor repeats the last
            options |= {"mininterval": LOG_SECONDS, "miniters": 1, "leave": True}
            options |= {"file": io.StringIO(), "bar_format": line}
        super().__init__(*arguments, unit=unit, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.is_bar:
            super().display(msg, pos)
        elif self.n > self.initial:
            log.info(str(self))
