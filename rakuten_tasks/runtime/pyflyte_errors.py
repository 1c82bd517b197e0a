"""Adapter of pyflyte's error output: what a user can mend is one line, everything else a traceback, as is all with -v.

Contract test: tests/unit/runtime/test_pyflyte_errors.py.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from traceback import walk_tb

import click
from flytekit.clis.sdk_in_container import utils

from rakuten_tasks.runtime.retry import PERMANENT_ERRORS

if not version("flytekit").startswith("1.16."):
    raise ImportError(f"flytekit {version('flytekit')}: this adapter was written for 1.16, see {__name__}")

TASK = re.compile(r"(?:Error encountered while (?:executing|converting inputs of) '[^']*':\s*)+")  # flytekit's prefix
OURS = ("rakuten_tasks.", "workflows.")

_print_exception = utils.pretty_print_exception


def install() -> None:
    """Replace the function of this process's pyflyte."""
    utils.pretty_print_exception = print_error


def print_error(error: Exception, verbosity: int = 1) -> None:
    """Print the message of an error about an input; leave everything else to flytekit."""
    if verbosity or not _is_about_input(error):
        _print_exception(error, verbosity)
        return
    click.echo(f"Error: {TASK.sub('', str(error), count=1)}", err=True)


def _is_about_input(error: Exception) -> bool:
    """Return whether it is about a path or credentials, or a value that one of our modules, and no library, refused."""
    if not isinstance(error, ValueError | LookupError):
        return isinstance(error, PERMANENT_ERRORS)
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith(OURS) and not isinstance(error, KeyError | IndexError)
