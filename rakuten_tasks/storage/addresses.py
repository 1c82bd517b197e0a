"""Addresses that a user writes: a path of this machine, or the URL of a store that fsspec knows."""

from __future__ import annotations

import os
import posixpath
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from rakuten_tasks.storage.local_files import open_file

FILE = "file://"
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(?!/)")
# In a URL fsspec takes `::` for a chain of file systems and the others for a pattern or the end of the path
MISREAD = re.compile(r"::|[*?\[\]#]")
# Readers of file:// disagree on whether these are decoded
ENCODED = re.compile(r"[%?#]")


def open_address(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system and the path there. A local path is taken letter by letter, never parsed.

    Raises ValueError as require_address does, and if the package for a store is not installed.
    """
    require_address(address)
    if is_local(address):
        return LocalFileSystem(), absolute(address.removeprefix(FILE))
    try:
        filesystem, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise ValueError(f"{address}: {error}") from error
    return filesystem, path.rstrip("/")


def require_address(address: str) -> None:
    """Raise ValueError for an empty address, an unknown scheme, and a URL of which fsspec would open another file."""
    if rule := broken_rule(address):
        raise ValueError(f"{address.encode(errors='backslashreplace').decode() or repr(address)}: {rule}")


def broken_rule(address: str) -> str:
    """Return the rule that require_address raises; empty if the address can be read as it is written."""
    url, one_slash = URL.match(address), ONE_SLASH.match(address)
    if not address.strip():
        return "write a path, or an address such as s3://bucket/folder"
    if address != address.encode(errors="replace").decode():
        return "its name is not UTF-8: rename the file or folder"
    if one_slash and one_slash[1] in known_implementations:
        return f"write {one_slash[1]}:// with two slashes, or ./ before the name of a folder"
    if "::" in address.partition("://")[0] and "://" in address:
        return "a chain of addresses is not read: name the place itself"
    if url and url[1] not in known_implementations:
        return f"no store has addresses with {url[0]}: write a path, s3://..., gs://..."
    if address.startswith(FILE) and (ENCODED.search(address) or not address.startswith(f"{FILE}/")):
        return f"write the path of a local file, without {FILE}"
    if not is_local(address) and (misread := MISREAD.search(address)):
        return f"{misread[0]} in the address of a store is not read as a letter: rename the file or folder"
    return ""


def is_local(address: str) -> bool:
    """Return whether the address is a path or a file:// URL of this machine."""
    return not URL.match(address) or address.startswith(FILE)


def absolute(address: str) -> str:
    """Make a local path absolute, without links; a URL stays unchanged."""
    # not Path.expanduser, which raises for a folder such as ~old
    return address if URL.match(address) else os.path.realpath(os.path.expanduser(address))  # noqa: PTH111


def list_files(filesystem: AbstractFileSystem, root: str, pattern: str) -> dict[str, dict[str, Any]]:
    """Return details of the files below root by path, sorted. pattern: of what follows root, which is no pattern."""
    files = filesystem.find(root, maxdepth=pattern.count("/") + 1, detail=True)
    return {p: files[p] for p in sorted(files) if fnmatchcase(p.removeprefix(root.rstrip("/")), f"/{pattern}")}


def open_to_read(filesystem: AbstractFileSystem, path: str, **options: Any) -> BinaryIO:
    """Open a file to read; a local one as open_file does. options: of fsspec, for a file of a store."""
    if isinstance(filesystem, LocalFileSystem):
        return open_file(Path(path))
    return filesystem.open(path, "rb", **options)


def upload_file(path: Path, address: str) -> None:
    """Copy a local file of any size, with the folders above the copy."""
    filesystem, target = open_address(address)
    filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
    filesystem.put_file(str(path), target)


def write_file(address: str, content: str | bytes | bytearray) -> None:
    """Write a file, texts as UTF-8, with the folders above it."""
    filesystem, path = open_address(address)
    filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
    filesystem.pipe_file(path, content.encode() if isinstance(content, str) else bytes(content))
