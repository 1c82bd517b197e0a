"""Adapter of flytekit's cache of local runs: stores it in var/, ignores results whose files were deleted or changed.

flytekit keeps it under the home folder and never checks that the outputs still exist: once they are deleted, every
later run fails. A cluster uses Flyte's own cache instead. Contract test: tests/unit/runtime/test_local_cache.py.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgpack
from flytekit.core import local_cache
from flytekit.core.local_cache import LocalTaskCache
from flytekit.models.literals import Literal, LiteralMap, Primitive, Scalar
from google.protobuf.json_format import MessageToDict

from rakuten_tasks.storage.addresses import FILE, is_local
from rakuten_tasks.storage.paths import runs_folder

if not version("flytekit").startswith("1.16."):
    raise ImportError(f"flytekit {version('flytekit')}: this adapter was written for 1.16, see {__name__}")

_get, _set = LocalTaskCache.get, LocalTaskCache.set
FILES = "files"


def use(folder: Path) -> None:
    """Keep this process's cache in the folder, and check the files of every result that it returns."""
    local_cache.CACHE_LOCATION = str(folder)
    LocalTaskCache._initialized = False
    LocalTaskCache.get = staticmethod(_get_checked)
    LocalTaskCache.set = staticmethod(_set_with_files)


def _get_checked(task: str, code: str, *inputs: Any) -> LiteralMap | None:
    """The cached outputs if their files are unchanged, or None. Marks the runs that wrote them as used now."""
    outputs, listed = _get(task, code, *inputs), _get(task, f"{code}-{FILES}", *inputs)
    if outputs is None or listed is None:
        return None
    files = _stat_files(outputs)
    if json.loads(listed.literals[FILES].scalar.primitive.string_value) != files:
        return None
    paths = [Path(path) for path in files]
    try:
        for run in {path.relative_to(runs_folder()).parts[0] for path in paths if path.is_relative_to(runs_folder())}:
            os.utime(runs_folder() / run)
    except FileNotFoundError:  # a sweep deleted it meanwhile
        return None
    return outputs


def _set_with_files(task: str, code: str, *arguments: Any) -> None:
    """Store the outputs, and a second entry that lists their files."""
    *inputs, outputs = arguments
    _set(task, code, *inputs, outputs)
    text = Literal(scalar=Scalar(primitive=Primitive(string_value=json.dumps(_stat_files(outputs)))))
    _set(task, f"{code}-{FILES}", *inputs, LiteralMap({FILES: text}))


def _stat_files(outputs: LiteralMap) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of each local file, those in folders included."""
    addresses = _find_addresses(MessageToDict(outputs.to_flyte_idl()))
    paths = [Path(address.removeprefix(FILE)) for address in addresses if is_local(address)]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    stats = {str(file): file.stat() for file in files if file.is_file()}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def _find_addresses(value: Any) -> Iterator[str]:
    """Addresses of files and folders: `uri` of a blob, `path` of a FlyteFile or FlyteDirectory in a dataclass."""
    if isinstance(value, dict):
        if value.get("tag") == "msgpack":  # a dataclass
            yield from _find_addresses(msgpack.unpackb(base64.b64decode(value["value"])))
        for key, inner in value.items():
            if key in ("uri", "path") and isinstance(inner, str):
                yield inner
            else:
                yield from _find_addresses(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _find_addresses(inner)
