"""Adapter of pyflyte's option type for dataclasses: configuration files are read by `settings_file`.

flytekit's own errors name neither file nor line, and of a key that stands twice it takes the last value.
Contract test: tests/unit/runtime/test_click_types.py.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from flytekit.interaction.click_types import JsonParamType

from rakuten_tasks.config_base import Settings
from rakuten_tasks.runtime.settings_file import SettingsFileError, parse_settings, read_settings

if not version("flytekit").startswith("1.16."):
    raise ImportError(f"flytekit {version('flytekit')}: this adapter was written for 1.16, see {__name__}")

_convert = JsonParamType.convert


def install() -> None:
    """Replace the method of this process's pyflyte."""
    JsonParamType.convert = _convert_file


def _convert_file(self: JsonParamType, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
    """Read the file, or the JSON itself, if a configuration is wanted; leave everything else to flytekit."""
    kind = self._python_type
    if not (isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Settings)):
        return _convert(self, value, param, context)
    try:
        if value.lstrip().startswith("{"):
            return parse_settings(Path("configuration.json"), value.encode(errors="surrogateescape"), kind)
        return read_settings(Path(value), kind)
    except (SettingsFileError, OSError) as error:
        raise SystemExit("\n".join(f"Error: {line}" for line in str(error).splitlines())) from error
