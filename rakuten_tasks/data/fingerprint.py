"""Hash of a catalogue's files, without parsing them: the cache key of everything derived from it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.layout import Layout, find_layout
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.folders import iter_folder
from rakuten_tasks.storage.local_files import UnreadableFileError, hash_file, hash_json, open_file

READ = ("*.csv", "image_*", "synthetic*")  # names of the files that ingest may read, in lower case
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")  # s3 and http, azure, gcs
CHANGE_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
BATCH = 1024  # files in the threads' queue
THREADS = 4  # hashlib releases the interpreter lock


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a catalogue's files, independent of its address.

    content: of names and bytes of local files, of names, sizes and etags of remote ones.
    listing: of names, sizes and times of change, so that a change is detected without reading the files.
    size: bytes of all files; 0 where they are not copied.
    """

    content: str
    listing: str
    size: int = 0


class SetHash:
    """Hash of a set of values in any order, in constant memory: the sum of their SHA-256, modulo 2 ** 256.

    Two sets that differ by chance have the same sum as rarely as two files have the same SHA-256. Against an attacker
    who may choose the files it is weaker, and no such protection is needed here.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, value: Any) -> None:
        """Add a JSON value."""
        self._sum = (self._sum + int(hash_json(value), 16)) % 2**256

    def hexdigest(self) -> str:
        """Return the hash, in hex."""
        return f"{self._sum:064x}"


def fingerprint(source: str) -> Fingerprint:
    """Hash a catalogue's files. Raises FileNotFoundError as find_layout does.

    The built-in sample is identified by the code that generates it, a published catalogue by its content hash.
    """
    if fixed := _fixed_hash(source):
        return Fingerprint(fixed, fixed)
    layout, listing, content, size, count = find_layout(source), SetHash(), SetHash(), 0, 0
    is_local = isinstance(layout.filesystem, LocalFileSystem)
    for name, info in _iter_files(layout):
        listing.add(_listing_entry(name, info))
        if not is_local:
            content.add([name, info["size"], _first_value(info, ETAGS) or _first_value(info, CHANGE_TIMES)])
        size, count = size + info["size"], count + 1
    if is_local:
        for name, digest in _hash_files(layout, count):
            content.add([name, digest])
    return Fingerprint(content.hexdigest(), listing.hexdigest(), size)


def listing(source: str) -> str:
    """Return `fingerprint(source).listing` without reading any file."""
    if fixed := _fixed_hash(source):
        return fixed
    files = SetHash()
    for name, info in _iter_files(find_layout(source)):
        files.add(_listing_entry(name, info))
    return files.hexdigest()


def _fixed_hash(source: str) -> str | None:
    """Return the hash of a catalogue that cannot change while a run reads it, None for others."""
    if source == SAMPLE:
        code = sorted(path for path in (Path(__file__).parent / "sample").iterdir() if path.is_file())
        return hash_json([hash_file(path) for path in code])
    if (published := find_version(source)) is not None:
        return hash_json(["published", published.manifest.content])
    return None


def _iter_files(layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each file that ingest may read, by its name relative to the catalogue's folder, with fsspec's details."""
    layout.filesystem.invalidate_cache()  # s3fs caches listings for the life of the process
    for folder in dict.fromkeys((layout.root, *layout.train_photos, *layout.test_photos)):
        for info in iter_folder(layout.filesystem, folder):
            name = PurePosixPath(info["name"]).name
            if any(fnmatchcase(name.lower(), pattern) for pattern in READ):
                yield f"{folder}/{name}".removeprefix(layout.root), info


def _hash_files(layout: Layout, count: int) -> Iterator[tuple[str, str]]:
    """Yield the name and the SHA-256 of each local file, in any order. count: number of files, for the progress."""
    files = _iter_files(layout)
    with (
        ThreadPoolExecutor(THREADS) as pool,
        Progress(total=count, desc="fingerprint", unit=" files", leave=False) as bar,
    ):
        while batch := list(islice(files, BATCH)):  # the pool would take in all of a longer one
            names, paths = [name for name, _ in batch], [Path(info["name"]) for _, info in batch]
            for digest in zip(names, pool.map(_hash_if_readable, paths), strict=True):
                yield digest
                bar.update()


def _hash_if_readable(path: Path) -> str:
    try:
        with open_file(path):
            return hash_file(path)
    except (FileNotFoundError, UnreadableFileError) as error:  # ingest counts such a photo
        return type(error).__name__


def _listing_entry(name: str, info: dict[str, Any]) -> list[Any]:
    return [name, info["size"], _first_value(info, CHANGE_TIMES)]


def _first_value(info: dict[str, Any], names: tuple[str, ...]) -> str:
    return str(next((info[name] for name in names if info.get(name)), ""))
