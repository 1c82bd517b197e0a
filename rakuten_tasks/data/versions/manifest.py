"""Versions of a published catalogue: their manifests, and reading what they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pandas as pd
import pyarrow.parquet as pq

from rakuten_tasks.config_base import Strict
from rakuten_tasks.data.csv_files import RowFilter, all_rows, parse_labels
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, CatalogueError, damage_error
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.data.versions.files import MANIFEST_PATH, CatalogueFiles, fetch_file, manifest_path

FORMAT = 2  # of manifests and files; others are refused
PARTS = ("labelled", "unlabelled")


@dataclass(frozen=True)
class StoredShard(Strict):
    """A published shard. text, photos: files below files/, and their bytes. rows, sha256: as in shards.Shard."""

    text: str
    photos: str
    text_size: int
    photos_size: int
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

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file. Raises CatalogueError if it is gone or was changed."""
        with TemporaryDirectory() as work, fetch_file(self.files.locate(name), Path(work)).open("rb") as file:
            yield file

    def title_splits(self) -> TitleSplits:
        """Return the permanent splits of the titles."""
        with self.open(self.manifest.splits) as file:
            return TitleSplits.load(file)

    def answers(self, select: RowFilter = all_rows) -> pd.Series | None:
        """Return prdtypecode (Int64) by row of the selected unlabelled rows; None if they are not known."""
        if not self.manifest.answers:
            return None
        with self.open(self.manifest.answers) as file:
            return parse_labels(file, self.manifest.answers, select)

    def shards(self, part: str) -> list[Shard]:
        """Return the shards where they are published. Raises CatalogueError if a file is gone or has another size."""
        sizes, stored = self.files.sizes(), self.manifest.shards(part)
        for shard in stored:
            for name, size in ((shard.text, shard.text_size), (shard.photos, shard.photos_size)):
                if sizes.get(name) != size:
                    damage = "is not what was published" if name in sizes else "is gone"
                    raise damage_error(self.files.locate(name), f"of version {self.manifest.version} {damage}")
        locate = self.files.locate
        return [Shard(locate(shard.text), locate(shard.photos), shard.rows, shard.sha256) for shard in stored]

    def ingest(self, out: Path, labelled: bool = True, unlabelled: bool = True) -> IngestResult:
        """Describe the version as an ingest does. The shards stay where they are; `out` is for the other files.

        Raises FileNotFoundError if only unlabelled products are wanted and there are none, CatalogueError as `shards`.
        """
        manifest = self.manifest
        if not labelled and not manifest.unlabelled:
            raise FileNotFoundError(f"{self.address} holds no product to predict: publish a catalogue that has some")
        out.mkdir(parents=True, exist_ok=True)
        wanted = (labelled, unlabelled and bool(manifest.unlabelled))
        shards = {part: self.shards(part) for part, want in zip(PARTS, wanted, strict=True) if want}
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
