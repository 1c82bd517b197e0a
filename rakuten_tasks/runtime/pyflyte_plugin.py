"""Plugin that flytekit loads on import: an entry point in pyproject.toml."""

from __future__ import annotations

import os

import click
from flytekit.configuration.plugin import FlytekitPlugin


class Pyflyte(FlytekitPlugin):
    """Makes every `pyflyte` of this environment use the cache in var/, our reader of configurations and our errors."""

    @staticmethod
    def configure_pyflyte_cli(main: click.Group) -> click.Group:
        # not above: they import flytekit, which is still being imported when it imports this module
        from rakuten_tasks.console.terminal import prepare_streams
        from rakuten_tasks.runtime import absent_libraries, click_types, local_cache, pyflyte_errors
        from rakuten_tasks.runtime.pod_settings import PodSettings
        from rakuten_tasks.storage.paths import cache_folder

        prepare_streams()
        try:
            PodSettings.from_environment()
        except ValueError as error:  # in one line, before the import of a workflow raises it in a traceback
            raise SystemExit(f"Error: {error}") from error
        local_cache.use(cache_folder())
        click_types.install()
        pyflyte_errors.install()
        if os.environ.get(absent_libraries.REGISTERS):
            absent_libraries.install()
        return main
