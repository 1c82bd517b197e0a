"""Flyte's cache of local runs, in var/; an entry whose files are gone is ignored.

flytekit keeps it under the home folder and never looks whether the outputs still exist: once they are deleted, every
run after that fails. On a cluster Flyte's own cache is used and nothing here plays a part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import msgpack
from flytekit.core import local_cache
from flytekit.core.local_cache import LocalTaskCache, _calculate_cache_key
from flytekit.models.literals import Literal, LiteralMap

from rakuten_tasks.paths import runs_folder

_remembered, _remember = LocalTaskCache.get, LocalTaskCache.set
FILES = "-files"


def use(folder: Path) -> None:
    """Keep this process's cache there, and check what it says."""
    local_cache.CACHE_LOCATION = str(folder)
    LocalTaskCache._initialized = False
    LocalTaskCache.get = staticmethod(_still_there)
    LocalTaskCache.set = staticmethod(_with_files)


def _still_there(*key: Any) -> LiteralMap | None:
    """What flytekit's cache gives for this key, if its files are as they were; they count as used today."""
    outputs = _remembered(*key)
    if outputs is None:
        return None
    places = _named(outputs)
    if LocalTaskCache._cache.get(_calculate_cache_key(*key) + FILES) != _files(places):
        return None
    runs = {place.relative_to(runs_folder()).parts[0] for place in places if place.is_relative_to(runs_folder())}
    try:
        for run in runs:
            os.utime(runs_folder() / run)
    except FileNotFoundError:  # swept between the two looks
        return None
    return outputs


def _with_files(*arguments: Any) -> None:
    """flytekit's own `set`, and beside the outputs which files they were."""
    *key, outputs = arguments
    _remember(*arguments)
    LocalTaskCache._cache.set(_calculate_cache_key(*key) + FILES, _files(_named(outputs)))


def _files(places: list[Path]) -> dict[str, list[int]]:
    """Sizes and times of change of files, those in folders too: one that was deleted, cut or edited shows."""
    inside = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    found = {str(path): path.stat() for path in inside if path.is_file()}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in found.items()}


def _named(outputs: LiteralMap) -> list[Path]:
    return [place for literal in outputs.literals.values() for place in _places(literal)]


def _places(literal: Literal) -> Iterator[Path]:
    """Where the local files and folders of a task's output lie, those inside dataclasses too."""
    if literal.collection:
        for item in literal.collection.literals:
            yield from _places(item)
    elif literal.map:
        for item in literal.map.literals.values():
            yield from _places(item)
    elif literal.scalar and literal.scalar.blob:
        yield from _local(literal.scalar.blob.uri)
    elif literal.scalar and literal.scalar.binary:
        yield from _named_in(msgpack.unpackb(literal.scalar.binary.value))


def _named_in(value: Any) -> Iterator[Path]:
    """flytekit writes a FlyteFile or FlyteDirectory in a dataclass as {"path": address, ...}."""
    if isinstance(value, Mapping):
        if isinstance(value.get("path"), str):
            yield from _local(value["path"])
        for inner in value.values():
            yield from _named_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_in(inner)


def _local(address: str) -> Iterator[Path]:
    url = urlparse(address)
    if url.scheme in ("", "file"):
        yield Path(unquote(url.path) if url.scheme else address)
