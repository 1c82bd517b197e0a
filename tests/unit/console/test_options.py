"""Numbers on the command lines: out of range, nan or no number at all is one line, before any work."""

import click
import pytest
from click.testing import CliRunner

from rakuten_tasks.dashboard.__main__ import main as dashboard
from rakuten_tasks.monitoring.__main__ import main as monitor
from rakuten_tasks.registry.__main__ import registry
from rakuten_tasks.runtime.housekeeping import housekeeping

RUN = ["run", "true"]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "-5", "1e9", "abc", ""])
@pytest.mark.parametrize(
    ("command", "arguments", "option", "rule"),
    [
        (monitor, [], "--hours", "HOURS={}: must be a number from 0.0001 to 87,600"),
        (housekeeping, RUN, "--days", "KEEP_DAYS={}: must be a number from 0 to 36,500"),
        (housekeeping, RUN, "--gigabytes", "KEEP_GB={}: must be a number from 0 to 1,000,000"),
        (registry, ["prune"], "--days", "KEEP_DAYS={}: must be a number from 0 to 36,500"),
        (registry, ["prune"], "--keep", "KEEP_VERSIONS={}: must be a whole number from 1 to 1,000,000"),
        (dashboard, ["--watch"], "--seconds", "--seconds={}: must be a number from 0.1 to 3,600"),
    ],
)
def test_a_number_out_of_range_is_one_line(command: click.Command, arguments, option, rule, value):
    name, *rest = [*arguments, ""]
    options = [name, f"{option}={value}", *rest] if name else [f"{option}={value}"]
    done = CliRunner().invoke(command, [part for part in options if part])
    assert (done.exit_code, done.output) == (1, f"Error: {rule.format(value)}\n")
