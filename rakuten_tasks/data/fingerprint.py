"""Hash of a catalogue's files, without parsing them: the cache key of everything derived from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.local_files import UnreadableFileError, hash_file, hash_json, open_file

READ = ("*.csv", "image_*", "synthetic*")  # names of the files that ingest may read, in lower case
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")  # s3 and http, azure, gcs
CHANGE_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
THREADS = 4  # hashlib releases the interpreter lock


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a catalogue's files, independent of its address.

    content: of names and bytes of local files, of names, sizes and etags of remote ones.
    listing: of names, sizes and times of change, so that a change is detected without reading the files.
    """

    content: str
    listing: str


def fingerprint(source: str) -> Fingerprint:
    """Hash a catalogue's files. Raises FileNotFoundError as find_layout does.

    The built-in sample is identified by the code that generates it, a published catalogue by its content hash.
    """
    if fixed := _fixed_hash(source):
        return Fingerprint(fixed, fixed)
    filesystem, files = _list_files(source)
    if isinstance(filesystem, LocalFileSystem):
        content: dict[str, Any] = dict(zip(files, _hash_files([info["name"] for info in files.values()]), strict=True))
    else:
        content = {
            name: [info["size"], _first_value(info, ETAGS) or _first_value(info, CHANGE_TIMES)]
            for name, info in files.items()
        }
    return Fingerprint(hash_json(content), _hash_listing(files))


def listing(source: str) -> str:
    """Return `fingerprint(source).listing` without reading any file."""
    return _fixed_hash(source) or _hash_listing(_list_files(source)[1])


def _fixed_hash(source: str) -> str | None:
    """Return the hash of a catalogue that cannot change while a run reads it, None for others."""
    if source == SAMPLE:
        code = sorted(path for path in (Path(__file__).parent / "sample").iterdir() if path.is_file())
        return hash_json([hash_file(path) for path in code])
    if (published := find_version(source)) is not None:
        return hash_json(["published", published.manifest.content])
    return None


def _list_files(source: str) -> tuple[AbstractFileSystem, dict[str, dict[str, Any]]]:
    """Return the file system, and its details of each file by name relative to the catalogue's folder."""
    layout = find_layout(source)
    layout.filesystem.invalidate_cache()  # s3fs caches listings for the life of the process
    folders = dict.fromkeys((layout.root, *layout.train_photos, *layout.test_photos))
    files = {}
    for folder in folders:
        for path, info in layout.filesystem.find(folder, maxdepth=1, detail=True).items():
            if any(fnmatchcase(PurePosixPath(path).name.lower(), pattern) for pattern in READ):
                files[path.removeprefix(layout.root)] = info
    return layout.filesystem, files


def _hash_files(paths: list[str]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(_hash_if_readable, map(Path, paths))
        return list(Progress(hashes, "fingerprint", len(paths), unit=" files", leave=False))


def _hash_if_readable(path: Path) -> str:
    try:
        with open_file(path):
            return hash_file(path)
    except (FileNotFoundError, UnreadableFileError) as error:  # ingest counts such a photo
        return type(error).__name__


def _hash_listing(files: dict[str, dict[str, Any]]) -> str:
    return hash_json({name: [info["size"], _first_value(info, CHANGE_TIMES)] for name, info in files.items()})


def _first_value(info: dict[str, Any], names: tuple[str, ...]) -> str:
    return str(next((info[name] for name in names if info.get(name)), ""))
