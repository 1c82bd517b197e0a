"""Published catalogues: immutable versions at an fsspec address, of which the highest number is current.

versions/000003.json    the manifest of version 3; it appears last, in one step, and with it the version
files/...               what manifests name, each by the hash of its bytes: shards are shared between versions
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from mashumaro.exceptions import MissingField
from tqdm import tqdm

from rakuten_tasks.config import Strict
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, CatalogueError
from rakuten_tasks.data.shards import Shard

FORMAT = 1  # of manifests and files; another one is refused
VERSION = re.compile(r"(?P<root>.+)/versions/(?P<number>[0-9]{6})\.json")
PARTS = ("labelled", "unlabelled")


@dataclass(frozen=True)
class StoredShard(Strict):
    """file: below files/. rows, sha256: as of shards.Shard."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest(Strict):
    """One version: what is in it, and what its publication read and left out."""

    format: int
    version: int
    content: str  # hash of all that a reader gets; the same content is not published twice in a row
    published: str  # UTC, ISO 8601
    source: str  # what was read
    added_to: int  # the version that this one holds too; 0: it stands alone
    columns: dict[str, str]  # of the shards
    labelled: list[StoredShard]
    unlabelled: list[StoredShard]
    class_counts: dict[str, int]
    photos: dict[str, dict[str, int]]  # photo_status of its rows, by part
    issues: dict[str, dict[str, int]]
    names: dict[str, str]
    synthetic: bool
    products: str  # Parquet, without photos: see StagedVersion.products
    splits: str
    answers: str  # CSV with the codes of the rows to predict, where they are known; else empty
    read: dict[str, Counts]  # of `source`, by part
    quarantine: str  # rows of `source` that were not kept

    def rows(self, part: str) -> int:
        """Of a part, "labelled" or "unlabelled"."""
        return sum(shard.rows for shard in self.shards(part))

    def shards(self, part: str) -> list[StoredShard]:
        """Of a part."""
        return self.labelled if part == PARTS[0] else self.unlabelled


@dataclass(frozen=True)
class CatalogueVersion:
    """A version that can be read. address: as a source, of this version for ever."""

    filesystem: AbstractFileSystem
    root: str
    address: str
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises CatalogueError where it is gone, or is not what was published."""
        try:
            content = self.filesystem.cat_file(f"{self.root}/files/{name}")
        except FileNotFoundError as error:
            raise self._damaged(name, "is gone") from error
        if content_name(name.partition("-")[0], name.rpartition(".")[2], content) != name:
            raise self._damaged(name, "is not what was published")
        return content

    def table(self, name: str) -> pd.DataFrame:
        """A Parquet file."""
        return pd.read_parquet(BytesIO(self.read(name)))

    def answers(self) -> pd.Series | None:
        """prdtypecode (int64) by row of the rows to predict; None where they are not known."""
        if not self.manifest.answers:
            return None
        return pd.read_csv(BytesIO(self.read(self.manifest.answers)), index_col=0)["prdtypecode"].astype("int64")

    def fetch(self, out: Path, labelled: bool = True, unlabelled: bool = True) -> IngestResult:
        """Copy the shards to `out`, one in memory at a time. Raises FileNotFoundError without a product to predict."""
        manifest = self.manifest
        if not labelled and not manifest.unlabelled:
            raise FileNotFoundError(f"{self.address} holds no product to predict: publish a catalogue that has some")
        out.mkdir(parents=True, exist_ok=True)
        wanted = {PARTS[0]: labelled, PARTS[1]: unlabelled and bool(manifest.unlabelled)}
        fetched = {part: self._fetched(part, out) if asked else [] for part, asked in wanted.items()}
        pq.write_table(QUARANTINE.empty_table(), out / "quarantine.parquet")  # nothing is left out of what is sound
        ingested = IngestResult(
            labelled=fetched["labelled"],
            unlabelled=fetched["unlabelled"],
            counts={part: self._counts(part) for part, asked in wanted.items() if asked},
            class_counts={int(code): n for code, n in manifest.class_counts.items()} if labelled else {},
            names={int(code): name for code, name in manifest.names.items()},
            synthetic=manifest.synthetic,
            content_hash=manifest.content,
            quarantine=out / "quarantine.parquet",
            file=out / "summary.json",
        )
        ingested.write_summary()
        return ingested

    def _fetched(self, part: str, out: Path) -> list[Shard]:
        shards = []
        for i, stored in enumerate(tqdm(self.manifest.shards(part), desc=f"fetch {part}", unit=" shards", leave=False)):
            path = out / f"{part}-{i:05d}.parquet"
            path.write_bytes(self.read(stored.file))
            shards.append(Shard(path, stored.rows, stored.sha256))
        return shards

    def _counts(self, part: str) -> Counts:
        rows = self.manifest.rows(part)
        return Counts(rows, rows, 0, {}, self.manifest.photos[part], self.manifest.issues[part])

    def _damaged(self, name: str, what: str) -> CatalogueError:
        return CatalogueError(
            f"{self.root}/files/{name} of version {self.manifest.version} {what}: put it back from a copy, or publish "
            "the catalogue to another address"
        )


def content_name(kind: str, ending: str, content: bytes) -> str:
    """What a file of these bytes is called below files/: kind-hash.ending"""
    return f"{kind}-{hashlib.sha256(content).hexdigest()}.{ending}"


def manifest_path(root: str, version: int) -> str:
    """Where the manifest of a version of the catalogue at `root` lies."""
    return f"{root}/versions/{version:06d}.json"


def find_version(source: str) -> CatalogueVersion | None:
    """The current version of the catalogue published there, or the version whose manifest it names; None: no such.

    Raises FileNotFoundError for a version that is not there, CatalogueError for a manifest that cannot be read.
    """
    source = source.rstrip("/")
    filesystem, path = fsspec.url_to_fs(source)
    if named := VERSION.fullmatch(path):
        return _read(filesystem, named["root"], source, int(named["number"]))
    path = path.rstrip("/")
    numbers = _numbers(filesystem, path)
    return _read(filesystem, path, manifest_path(source, numbers[-1]), numbers[-1]) if numbers else None


def _numbers(filesystem: AbstractFileSystem, root: str) -> list[int]:
    filesystem.invalidate_cache()  # s3fs keeps listings for as long as the process lives
    try:
        found = filesystem.ls(f"{root}/versions", detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match["number"]) for file in found if (match := VERSION.fullmatch(file)))


def _read(filesystem: AbstractFileSystem, root: str, address: str, number: int) -> CatalogueVersion:
    try:
        text = filesystem.cat_file(manifest_path(root, number))
    except FileNotFoundError as error:
        there = ", ".join(map(str, _numbers(filesystem, root)[-5:])) or "none"
        raise FileNotFoundError(f"no {address}: the latest versions there are {there}") from error
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        manifest = Manifest.from_dict(values)
    except (ValueError, KeyError, TypeError, MissingField) as error:
        raise CatalogueError(
            f"{address} is no manifest that this package can read ({error}): publish the catalogue to another address"
        ) from error
    return CatalogueVersion(filesystem, root, address, manifest)
