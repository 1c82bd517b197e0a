"""Atomic writes and SHA-256 of files on this machine's disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

# errors of a path at which there is no file, and of one whose file cannot be read
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EIO)
COPIED = 1 << 20  # bytes at a time


def write_atomically(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Replace the file atomically: a reader sees the old or the new content.

    durable: also after a power cut; it costs an fsync, milliseconds on a slow disk.

    Creates the folder if necessary. A killed process may leave a `*.part` file beside it.
    """
    with _replacing(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy_atomically(source: Path, path: Path) -> None:
    """Replace the file at `path` by a copy of `source`, as write_atomically does."""
    with _replacing(path, durable=True) as file, source.open("rb") as original:
        shutil.copyfileobj(original, file, COPIED)


@contextmanager
def _replacing(path: Path, durable: bool) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{path.name}.", suffix=".part", dir=path.parent, delete=False) as file:
        part = Path(file.name)
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


class UnreadableFileError(OSError):
    """A directory, pipe, socket, device or loop of links, or a file without permission."""


def open_file(path: Path) -> BinaryIO:
    """Open an ordinary file, or a link to one, to read; never waits for a pipe.

    Raises FileNotFoundError if there is none, as at a link to nothing, and UnreadableFileError.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableFileError(f"{path} is no ordinary file")
        return path.open("rb")
    except OSError as error:
        if error.errno in ABSENT:
            raise FileNotFoundError(error.errno, os.strerror(error.errno), str(path)) from error
        if error.errno in UNREADABLE:
            raise UnreadableFileError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_folder(folder: Path, leave_out: str = "") -> str:
    """Return the SHA-256 of names and contents of all files below the folder except those named `leave_out`, in hex."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != leave_out]
    return hash_json({path.relative_to(folder).as_posix(): hash_file(path) for path in files})
