"""Files of a published catalogue at an fsspec address; each is written once and never changed.

versions/000003.json    the manifest of version 3, written last and in one step: with it the version exists
files/...               what manifests name, each named by the hash of its bytes; versions share shards
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.data.schema import damage_error
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.storage.addresses import open_address
from rakuten_tasks.storage.local_files import copy_atomically, hash_file, write_atomically

MANIFEST_PATH = re.compile(r"(?s)(?P<root>.+)/versions/(?P<number>[0-9]{6})\.json")
CONTENT_NAME = re.compile(r"[a-z]+-(?P<sha256>[0-9a-f]{64})\.[a-z]+")


def manifest_path(root: str, version: int) -> str:
    """Return the path or address of a version's manifest."""
    return f"{root}/versions/{version:06d}.json"


def content_name(kind: str, file: Path) -> str:
    """Return the name of a published file with these bytes."""
    return f"{kind}-{hash_file(file)}{file.suffix}"


def require_content(file: Path, address: object) -> None:
    """Raise CatalogueError for a published file, which its name shows, that is gone or has other bytes than then."""
    if match := CONTENT_NAME.fullmatch(file.name):
        if not file.is_file():
            raise damage_error(address, "is gone")
        if hash_file(file) != match["sha256"]:
            raise damage_error(address, "is not what was published")


def fetch_shard(shard: Shard, folder: Path) -> Shard:
    """Return the shard with local files: from a store they are downloaded to `folder`. Raises as require_content."""
    return replace(shard, text=fetch_file(shard.text, folder), photos=fetch_file(shard.photos, folder))


def fetch_file(file: Path | str, folder: Path) -> Path:
    """Return the path of a local file, or download the file at an address. Raises as require_content."""
    path = file if isinstance(file, Path) else folder / file.rpartition("/")[2]
    if isinstance(file, str):
        folder.mkdir(parents=True, exist_ok=True)
        filesystem, source = open_address(file)
        try:
            filesystem.get_file(source, str(path))
        except FileNotFoundError as error:
            raise damage_error(file, "is gone") from error
    require_content(path, file)
    return path


@dataclass(frozen=True)
class CatalogueFiles:
    """Files below the root of a published catalogue."""

    filesystem: AbstractFileSystem
    root: str

    @classmethod
    def at(cls, address: str) -> CatalogueFiles:
        """Open the folder or fsspec address; it need not exist."""
        return cls(*open_address(address))

    def locate(self, name: str) -> Path | str:
        """Return a file's path on this machine, or its address."""
        path = f"{self.root}/files/{name}"
        return Path(path) if isinstance(self.filesystem, LocalFileSystem) else self.filesystem.unstrip_protocol(path)

    def write(self, kind: str, source: Path) -> str:
        """Copy a local file unless it is there. Returns its name, `kind-hash.ending`."""
        name = content_name(kind, source)
        path = f"{self.root}/files/{name}"
        if isinstance(self.filesystem, LocalFileSystem):
            copy_atomically(source, Path(path))
        elif not self.filesystem.exists(path):  # an object store shows a file only when it is complete
            self.filesystem.makedirs(f"{self.root}/files", exist_ok=True)
            self.filesystem.put_file(str(source), path)
        return name

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by name, from one listing."""
        self.filesystem.invalidate_cache()  # s3fs caches listings for the life of the process
        try:
            files = self.filesystem.ls(f"{self.root}/files", detail=True)
        except FileNotFoundError:
            return {}
        return {file["name"].rpartition("/")[2]: file["size"] for file in files}

    def versions(self) -> list[int]:
        """Return the numbers of all versions, ascending."""
        self.filesystem.invalidate_cache()
        try:
            paths = self.filesystem.ls(f"{self.root}/versions", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(match["number"]) for path in paths if (match := MANIFEST_PATH.fullmatch(path)))

    def read_manifest(self, version: int) -> bytes:
        """Return the bytes of a version's manifest. Raises FileNotFoundError."""
        return self.filesystem.cat_file(manifest_path(self.root, version))

    def create_manifest(self, version: int, content: bytes) -> bool:
        """Write a version's manifest. Returns False if another publisher has written this version first."""
        path = manifest_path(self.root, version)
        self.filesystem.makedirs(f"{self.root}/versions", exist_ok=True)
        try:
            if isinstance(self.filesystem, LocalFileSystem):
                _link(path, content)
            else:
                self.filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError:
            # Object stores name a lost race differently, or the reply to a successful write was lost
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(path):
                raise
            return self.read_manifest(version) == content
        return True


def _link(path: str, content: bytes) -> None:
    """Write a file in one step. Raises FileExistsError."""
    draft = Path(f"{path}.{uuid.uuid4().hex}")
    try:
        write_atomically(draft, content)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
