"""Versions of a published catalogue: their manifests, and reading what they name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from rakuten_tasks.config import Strict
from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.csv_files import RowFilter, all_rows, parse_labels
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, CatalogueError
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.data.versions.files import MANIFEST_PATH, CatalogueFiles, manifest_path

FORMAT = 1  # of manifests and files; others are refused
PARTS = ("labelled", "unlabelled")


@dataclass(frozen=True)
class StoredShard(Strict):
    """A published shard. text, photos: files below files/. rows, sha256: as in shards.Shard."""

    text: str
    photos: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest(Strict):
    """Description of one version: its content, and what its publication read and left out."""

    format: int
    version: int
    content: str  # hash of everything a reader gets; the same content is not published twice in a row
    published: str  # UTC, ISO 8601
    source: str  # address of the catalogue that was read
    added_to: int  # the version that was extended; 0 for none
    columns: dict[str, str]  # of the shards
    labelled: list[StoredShard]
    unlabelled: list[StoredShard]
    class_counts: dict[str, int]
    photos: dict[str, dict[str, int]]  # by part, rows by photo_status
    issues: dict[str, dict[str, int]]
    names: dict[str, str]
    synthetic: bool
    products: str  # Parquet, without photos: see staging.list_products
    splits: str  # Parquet: see splits.TitleSplits
    answers: str  # CSV with the codes of the unlabelled rows; empty if they are not known
    read: dict[str, Counts]  # of `source`, by part
    quarantine: str  # Parquet: rows of `source` that were left out

    def rows(self, part: str) -> int:
        """Return the number of rows of "labelled" or "unlabelled"."""
        return sum(shard.rows for shard in self.shards(part))

    def shards(self, part: str) -> list[StoredShard]:
        """Return the shards of "labelled" or "unlabelled"."""
        return self.labelled if part == PARTS[0] else self.unlabelled


@dataclass(frozen=True)
class CatalogueVersion:
    """A readable version. address: of this version, as a source."""

    files: CatalogueFiles
    address: str
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises CatalogueError if it is gone or was changed."""
        try:
            return self.files.read(name)
        except (FileNotFoundError, ValueError) as error:
            damage = "is gone" if isinstance(error, FileNotFoundError) else "is not what was published"
            raise CatalogueError(
                f"{self.files.root}/files/{name} of version {self.manifest.version} {damage}: put it back from a copy, "
                "or publish the catalogue to another address"
            ) from error

    def table(self, name: str) -> pd.DataFrame:
        """Return the rows of a Parquet file."""
        return pd.read_parquet(BytesIO(self.read(name)))

    def answers(self, select: RowFilter = all_rows) -> pd.Series | None:
        """Return prdtypecode (Int64) by row of the selected unlabelled rows; None if they are not known."""
        if not self.manifest.answers:
            return None
        return parse_labels(BytesIO(self.read(self.manifest.answers)), self.manifest.answers, select).codes

    def fetch(self, out: Path, labelled: bool = True, unlabelled: bool = True) -> IngestResult:
        """Copy the shards to `out`, one in memory at a time.

        Raises FileNotFoundError if only unlabelled products are wanted and there are none.
        """
        manifest = self.manifest
        if not labelled and not manifest.unlabelled:
            raise FileNotFoundError(f"{self.address} holds no product to predict: publish a catalogue that has some")
        out.mkdir(parents=True, exist_ok=True)
        wanted = (labelled, unlabelled and bool(manifest.unlabelled))
        shards = {part: self._fetch_part(part, out) for part, want in zip(PARTS, wanted, strict=True) if want}
        quarantine = out / "quarantine.parquet"
        pq.write_table(QUARANTINE.empty_table(), quarantine)  # every published row is valid
        ingested = IngestResult(
            labelled=shards.get("labelled", []),
            unlabelled=shards.get("unlabelled", []),
            counts={part: self._count(part) for part in shards},
            class_counts={int(code): n for code, n in manifest.class_counts.items()} if labelled else {},
            names={int(code): name for code, name in manifest.names.items()},
            synthetic=manifest.synthetic,
            content_hash=manifest.content,
            quarantine=quarantine,
            file=out / "summary.json",
        )
        ingested.write_summary()
        return ingested

    def _fetch_part(self, part: str, out: Path) -> list[Shard]:
        shards = []
        for i, stored in enumerate(Progress(self.manifest.shards(part), f"fetch {part}", unit=" shards", leave=False)):
            text, photos = out / f"{part}-{i:05d}.text.parquet", out / f"{part}-{i:05d}.photos.parquet"
            text.write_bytes(self.read(stored.text))
            photos.write_bytes(self.read(stored.photos))
            shards.append(Shard(text, photos, stored.rows, stored.sha256))
        return shards

    def _count(self, part: str) -> Counts:
        rows = self.manifest.rows(part)
        return Counts(rows, rows, 0, {}, self.manifest.photos[part], self.manifest.issues[part])


def find_version(source: str) -> CatalogueVersion | None:
    """Return the current version of a published catalogue, or the version whose manifest `source` names.

    None if the address holds no published catalogue. Raises FileNotFoundError for a version that does not exist,
    CatalogueError for a manifest that cannot be read.
    """
    source = source.rstrip("/") or "/"
    files = CatalogueFiles.at(source)
    if match := MANIFEST_PATH.fullmatch(files.root):
        return _open(CatalogueFiles(files.filesystem, match["root"]), source, int(match["number"]))
    versions = files.versions()
    return _open(files, manifest_path(source, versions[-1]), versions[-1]) if versions else None


def _open(files: CatalogueFiles, address: str, version: int) -> CatalogueVersion:
    try:
        text = files.read_manifest(version)
    except FileNotFoundError as error:
        latest = ", ".join(map(str, files.versions()[-5:])) or "none"
        raise FileNotFoundError(f"no {address}: the latest versions there are {latest}") from error
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, not {FORMAT}")
        manifest = Manifest.from_dict(values)
    except (ValueError, LookupError, TypeError) as error:
        raise CatalogueError(
            f"{address} is no manifest that this package can read ({error}): publish the catalogue to another address"
        ) from error
    return CatalogueVersion(files, address, manifest)
