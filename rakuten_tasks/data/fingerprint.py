"""Hash of a catalogue's files, without parsing them: the key under which everything about it is cached."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.data.versions.manifest import find_version

READ = ("*.csv", "image_*", "SYNTHETIC*")  # names of all files that ingest may look at
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")  # s3 and http, azure, gcs
THREADS = 4


@dataclass(frozen=True)
class Fingerprint:
    """content: of names and bytes of local files, of names, sizes and etags of remote ones; not of their address.

    listing: of names, sizes and times of change; tells whether files changed since, at the cost of listing them.
    """

    content: str
    listing: str


def fingerprint(source: str) -> Fingerprint:
    """The catalogue's, or the built-in sample's, which is made by this package and changes with it.

    A published catalogue is known by its content, which stands in its manifest.

    Raises FileNotFoundError as find_layout does.
    """
    if source == SAMPLE:
        made_by = sorted(path for path in (Path(__file__).parent / "sample").iterdir() if path.is_file())
        digest = _digest([path.read_bytes().hex() for path in made_by])
        return Fingerprint(digest, digest)
    if (published := find_version(source)) is not None:  # versions never change
        digest = _digest(["published", published.manifest.content])
        return Fingerprint(digest, digest)
    filesystem, found = _list_files(source)
    listing = {name: [info["size"], _file_version(info)] for name, info in found.items()}
    if isinstance(filesystem, LocalFileSystem):
        content: dict[str, Any] = dict(
            zip(found, _hashes(filesystem, [info["name"] for info in found.values()]), strict=True)
        )
    else:
        content = {name: _remote(info) for name, info in found.items()}
    return Fingerprint(_digest(content), _digest(listing))


def listing(source: str) -> str:
    """`fingerprint(source).listing`, without reading any file."""
    if source == SAMPLE or find_version(source) is not None:
        return fingerprint(source).listing
    return _digest({name: [info["size"], _file_version(info)] for name, info in _list_files(source)[1].items()})


def _list_files(source: str) -> tuple[AbstractFileSystem, dict[str, dict[str, Any]]]:
    """What the file system knows of each file, by name below the catalogue's folder."""
    layout = find_layout(source)
    layout.filesystem.invalidate_cache()  # s3fs keeps listings for as long as the process lives
    folders = dict.fromkeys((layout.root, *layout.train_photos, *layout.test_photos))
    found = {}
    for folder in folders:
        for path, info in layout.filesystem.find(folder, maxdepth=1, detail=True).items():
            if any(fnmatch(PurePosixPath(path).name, pattern) for pattern in READ):
                found[path.removeprefix(layout.root)] = info
    return layout.filesystem, dict(sorted(found.items()))


def _hashes(filesystem: AbstractFileSystem, paths: list[str]) -> list[str]:
    def hashed(path: str) -> str:
        with filesystem.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(THREADS) as pool:  # hashlib works without the interpreter lock
        return list(tqdm(pool.map(hashed, paths), total=len(paths), desc="fingerprint", unit=" files", leave=False))


def _remote(info: dict[str, Any]) -> list[Any]:
    """Size and etag; where the store gives no etag, the time of change."""
    etag = next((info[name] for name in ETAGS if info.get(name)), None)
    return [info["size"], etag or _file_version(info)]


def _file_version(info: dict[str, Any]) -> str:
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    return str(next((info[name] for name in names if info.get(name)), ""))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
