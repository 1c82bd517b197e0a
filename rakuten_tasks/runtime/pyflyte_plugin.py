"""Plugin that flytekit loads on import: an entry point in pyproject.toml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from flytekit.configuration.plugin import FlytekitPlugin


class Pyflyte(FlytekitPlugin):
    """Makes every `pyflyte` of this environment use the cache in var/, and our reader of configuration files."""

    @staticmethod
    def configure_pyflyte_cli(main: click.Group) -> click.Group:
        # not above: they import flytekit, which is still being imported when it imports this module
        from rakuten_tasks.console.terminal import prepare_streams
        from rakuten_tasks.runtime import absent_libraries, local_cache
        from rakuten_tasks.runtime.pod_settings import PodSettings
        from rakuten_tasks.storage.paths import cache_folder

        prepare_streams()
        try:
            PodSettings.from_environment()
        except ValueError as error:  # in one line, before the import of a workflow raises it in a traceback
            raise SystemExit(f"Error: {error}") from error
        local_cache.use(cache_folder())
        _read_settings_files()
        if os.environ.get(absent_libraries.REGISTERS):
            absent_libraries.install()
        return main


def _read_settings_files() -> None:
    """Replace flytekit's reader, whose errors name neither file nor line, and which takes the last of two keys."""
    from flytekit.interaction.click_types import JsonParamType

    from rakuten_tasks.config import Settings
    from rakuten_tasks.runtime.settings_file import SettingsFileError, read_settings

    convert = JsonParamType.convert

    def convert_file(self: Any, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        kind = self._python_type
        is_file = isinstance(value, str) and not value.lstrip().startswith("{") and Path(value).is_file()
        if not (is_file and isinstance(kind, type) and issubclass(kind, Settings)):
            return convert(self, value, param, ctx)
        try:
            return read_settings(Path(value), kind)
        except (SettingsFileError, OSError) as error:
            raise SystemExit("\n".join(f"Error: {line}" for line in str(error).splitlines())) from error

    JsonParamType.convert = convert_file
