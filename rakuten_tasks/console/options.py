"""Numbers that a user sets on a command line: finite, and within bounds."""

from __future__ import annotations

import math
from typing import Any

import click


def require_number(setting: str, value: Any, minimum: float, maximum: float, whole: bool = False) -> float:
    """Return the number. Raises ValueError, in one line, unless it is from `minimum` to `maximum`."""
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        number = math.nan
    if not minimum <= number <= maximum:  # nan is not
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{setting}={value}: must be {kind} from {minimum:,} to {maximum:,}")
    return number


class Number(click.ParamType):
    """Type of an option. setting: its name in messages, as make's variable.

    click.FloatRange takes nan for a number in any range.
    """

    name = "number"

    def __init__(self, setting: str, minimum: float, maximum: float = 1_000_000, whole: bool = False) -> None:
        self.setting, self.minimum, self.maximum, self.whole = setting, minimum, maximum, whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Check the value. Raises click.ClickException."""
        try:
            return require_number(self.setting, value, self.minimum, self.maximum, self.whole)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
