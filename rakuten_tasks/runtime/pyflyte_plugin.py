"""Plugin that flytekit loads on import: an entry point in pyproject.toml."""

from __future__ import annotations

import os

import click
from flytekit.configuration.plugin import FlytekitPlugin


class Pyflyte(FlytekitPlugin):
    """Makes every `pyflyte` of this environment use the cache in var/."""

    @staticmethod
    def configure_pyflyte_cli(main: click.Group) -> click.Group:
        # not above: they import flytekit, which is still being imported when it imports this module
        from rakuten_tasks.paths import cache_folder
        from rakuten_tasks.runtime import absent_libraries, local_cache

        local_cache.use(cache_folder())
        if os.environ.get(absent_libraries.REGISTERS):
            absent_libraries.install()
        return main
