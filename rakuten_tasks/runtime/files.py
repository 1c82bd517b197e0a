"""Files of tasks: working folders, downloads, content hashes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile


def workspace() -> Path:
    """A new folder for a task's outputs. Its own: run locally, the items of a map task share one working directory."""
    return Path(tempfile.mkdtemp(dir=current_context().working_directory))


def local(file: FlyteFile | FlyteDirectory) -> Path:
    """Where the file lies on this machine, fetched first if it is elsewhere."""
    return Path(file.download())


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(inside for inside in path.rglob("*") if inside.is_file())
    return key_of({file.relative_to(path).as_posix(): content_hash(file) for file in files})


def key_of(value: object) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
