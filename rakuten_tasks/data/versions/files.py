"""Files of a published catalogue at an fsspec address; each is written once and never changed.

versions/000003.json    the manifest of version 3, written last and in one step: with it the version exists
files/...               what manifests name, each named by the hash of its bytes; versions share shards
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.storage.addresses import open_address
from rakuten_tasks.storage.local_files import write_atomically

MANIFEST_PATH = re.compile(r"(?s)(?P<root>.+)/versions/(?P<number>[0-9]{6})\.json")


def manifest_path(root: str, version: int) -> str:
    """Return the path or address of a version's manifest."""
    return f"{root}/versions/{version:06d}.json"


@dataclass(frozen=True)
class CatalogueFiles:
    """Files below the root of a published catalogue."""

    filesystem: AbstractFileSystem
    root: str

    @classmethod
    def at(cls, address: str) -> CatalogueFiles:
        """Open the folder or fsspec address; it need not exist."""
        return cls(*open_address(address))

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError, and ValueError if they are not what was written."""
        content = self.filesystem.cat_file(f"{self.root}/files/{name}")
        if _content_name(name.partition("-")[0], name.rpartition(".")[2], content) != name:
            raise ValueError(f"{name} has other bytes than its name says")
        return content

    def write(self, kind: str, ending: str, content: bytes) -> str:
        """Write a file unless it exists. Returns its name, `kind-hash.ending`."""
        name = _content_name(kind, ending, content)
        path = f"{self.root}/files/{name}"
        if isinstance(self.filesystem, LocalFileSystem):
            write_atomically(Path(path), content)
        elif not self.exists(name):  # an object store shows a file only when it is complete
            self.filesystem.makedirs(f"{self.root}/files", exist_ok=True)
            self.filesystem.pipe_file(path, content)
        return name

    def write_table(self, kind: str, rows: pd.DataFrame | pa.Table) -> str:
        """Write a Parquet file. Returns its name."""
        buffer = BytesIO()
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
        pq.write_table(table, buffer)
        return self.write(kind, "parquet", buffer.getvalue())

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        return bool(self.filesystem.exists(f"{self.root}/files/{name}"))

    def versions(self) -> list[int]:
        """Return the numbers of all versions, ascending."""
        self.filesystem.invalidate_cache()  # s3fs caches listings for the life of the process
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


def _content_name(kind: str, ending: str, content: bytes) -> str:
    return f"{kind}-{hashlib.sha256(content).hexdigest()}.{ending}"


def _link(path: str, content: bytes) -> None:
    """Write a file in one step. Raises FileExistsError."""
    draft = Path(f"{path}.{uuid.uuid4().hex}")
    try:
        write_atomically(draft, content)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
