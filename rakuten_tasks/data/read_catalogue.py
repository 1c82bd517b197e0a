"""Ingest of a catalogue, in the challenge's layout or published, to checked Parquet shards and a quarantine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from fsspec import AbstractFileSystem

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.csv_files import read_chunks, read_class_names
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.layout import TEST_ROWS, TRAIN_LABELS, TRAIN_ROWS, Layout, find_layout
from rakuten_tasks.data.part_index import PartIndex, index_part
from rakuten_tasks.data.photo_files import PhotoFile, PhotoReader
from rakuten_tasks.data.row_counts import RowCounts
from rakuten_tasks.data.row_validator import RowValidator
from rakuten_tasks.data.schema import PRODUCTS, QUARANTINE, ROWS
from rakuten_tasks.data.shards import Shard, ShardWriter, hash_photo, shard_rows
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.local_files import hash_json
from rakuten_tasks.storage.parquet_files import RowGroupWriter

BATCH = 64  # photos in memory at once
QUARANTINE_ROWS = 4096  # in a row group: the writer holds the footer's entries of all


def ingest(
    source: str, out: Path, config: IngestConfig, labelled: bool = True, unlabelled: bool = True
) -> IngestResult:
    """Write the catalogue's rows and photos to `out` as Parquet, with a quarantine and a summary; see IngestResult.

    source: a folder, or an fsspec URL of one, or of a published catalogue; never written to. labelled, unlabelled:
    which parts to read; a catalogue with labelled rows may lack the unlabelled ones. Raises FileNotFoundError for
    missing files, and CatalogueError for unreadable ones, for labels that do not match rows, and for more than
    config.max_bad_share bad rows. A published catalogue was validated at publication, so its shards are used where
    they are, whatever the config.
    """
    for stale in [*out.glob("labelled-*.parquet"), *out.glob("unlabelled-*.parquet")]:
        stale.unlink()
    if (published := find_version(source)) is not None:
        return published.ingest(out, labelled, unlabelled)
    layout = find_layout(source)
    quarantine = out / "quarantine.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    # beside `out`, on a disk: memory maps of files in a tmpfs are memory
    with tempfile.TemporaryDirectory(prefix="index-", dir=out.parent) as index:
        parts = _list_parts(layout, source, labelled, unlabelled, Path(index))
        names = read_class_names(layout.filesystem, layout.classes) if layout.classes else {}
        out.mkdir(exist_ok=True)
        with RowGroupWriter(quarantine, QUARANTINE, QUARANTINE_ROWS) as writer:
            ingested = {part.name: _ingest_part(part, layout.filesystem, out, writer, config) for part in parts}
    result = IngestResult(
        labelled=ingested["labelled"].shards if labelled else [],
        unlabelled=ingested["unlabelled"].shards if "unlabelled" in ingested else [],
        counts={name: part.counts for name, part in ingested.items()},
        class_counts=ingested["labelled"].class_counts if labelled else {},
        names=names,
        synthetic=layout.synthetic,
        content_hash=hash_json({name: part.content for name, part in ingested.items()}),
        quarantine=quarantine,
        file=out / "summary.json",
    )
    result.write_summary()
    return result


@dataclass(frozen=True)
class _Part:
    """Rows to read: CSV file, what is known of all its rows, and folders of photos."""

    name: str
    file: str
    index: PartIndex
    photos: tuple[str, ...]


def _list_parts(layout: Layout, source: str, labelled: bool, unlabelled: bool, folder: Path) -> list[_Part]:
    """Read and check the CSV files of each part. folder: an empty one for the indexes."""
    files: list[tuple[str, str, str | None, tuple[str, ...]]] = []
    if labelled:
        rows_file, labels_file = layout.train_rows, layout.train_labels
        if rows_file is None or labels_file is None:
            absent = " and ".join(n for n, f in ((TRAIN_ROWS[0], rows_file), (TRAIN_LABELS[0], labels_file)) if not f)
            raise FileNotFoundError(f"no {absent} in {source}: training needs both, put them there")
        files.append(("labelled", rows_file, labels_file, layout.train_photos))
    if unlabelled and layout.test_rows:
        files.append(("unlabelled", layout.test_rows, None, layout.test_photos))
    elif not labelled:
        raise FileNotFoundError(f"no {TEST_ROWS[0]} in {source}: put the products to predict there")
    parts = []
    for name, rows_file, labels_file, photos in files:
        (folder / name).mkdir()
        index = index_part(layout.filesystem, rows_file, labels_file, folder / name)
        parts.append(_Part(name, rows_file, index, photos))
    return parts


@dataclass(frozen=True)
class _IngestedPart:
    """Shards of a part. content: hash of all kept rows and photos."""

    shards: list[Shard]
    content: str
    counts: Counts
    class_counts: dict[int, int]


def _ingest_part(
    part: _Part, filesystem: AbstractFileSystem, out: Path, quarantine: RowGroupWriter, config: IngestConfig
) -> _IngestedPart:
    total = part.index.rows
    validator, counts = RowValidator(part.index), RowCounts()
    writer = ShardWriter(out, part.name, shard_rows(total, config.rows_per_shard))
    with (
        PhotoReader(filesystem, part.photos, config) as photos,
        Progress(total=total, desc=f"ingest {part.name}", unit=" products") as bar,
    ):
        for chunk in read_chunks(filesystem, part.file, PRODUCTS):
            rows = validator.validate(chunk)
            # unlabelled rows are flagged, never dropped
            bad = (rows["issue"].notna() & (part.index.labels is not None)).to_numpy()
            quarantine.write(_quarantine_table(part.name, chunk.raw[bad], rows[bad]))
            counts.add_quarantined(rows.index[bad].tolist(), rows["issue"][bad].tolist())
            bar.update(int(bad.sum()))
            _write_products(rows[~bad], photos.list_names(chunk.raw[~bad]), photos, writer, counts, bar)
    writer.close()
    summary = counts.summarize(total, sum(shard.rows for shard in writer.shards), part.file)
    if part.index.labels is not None:
        counts.require_few_faults(total, config.max_bad_share, part.file, part.photos)
    return _IngestedPart(writer.shards, writer.content.hexdigest(), summary, counts.class_counts)


def _write_products(
    rows: pd.DataFrame,
    names: list[tuple[str, ...] | None],
    photos: PhotoReader,
    writer: ShardWriter,
    counts: RowCounts,
    bar: Progress,
) -> None:
    """Read the rows' photos, a batch at a time, and write and count both."""
    columns = rows.assign(photo_status="", photo_hash=pd.array([pd.NA] * len(rows), "UInt64")).reset_index()
    text = pa.Table.from_pandas(columns, ROWS, preserve_index=False)
    for start in range(0, len(rows), BATCH):
        files = photos.read_files(names[start : start + BATCH])
        batch = _with_photos(text.slice(start, BATCH), files)
        writer.write(batch, [file.photo for file in files])
        counts.add_kept(*(batch[name].to_pylist() for name in ("row", "issue", "photo_status", "prdtypecode")))
        bar.update(len(batch))


def _with_photos(text: pa.Table, files: list[PhotoFile]) -> pa.Table:
    values = {"photo_status": [f.photo_status for f in files], "photo_hash": [hash_photo(f.photo) for f in files]}
    for name, column in values.items():
        field = ROWS.field(name)
        text = text.set_column(ROWS.get_field_index(name), field, pa.array(column, field.type))
    return text


def _quarantine_table(part: str, raw: pd.DataFrame, rows: pd.DataFrame) -> pa.Table:
    """raw: texts of the rows as in the CSV; rows: as RowValidator returns them."""
    texts = raw.assign(part=part, prdtypecode=rows["label"], reason=rows["issue"])
    return pa.Table.from_pandas(texts.reset_index(), QUARANTINE, preserve_index=False)
