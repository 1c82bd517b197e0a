"""Ingest of a catalogue, in the challenge's layout or published, to checked Parquet shards and a quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.csv_files import (
    Labels,
    RowValidator,
    check_labels_match_rows,
    read_chunks,
    read_class_names,
    read_labels,
    read_row_index,
)
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.layout import TEST_ROWS, TRAIN_LABELS, TRAIN_ROWS, Layout, find_layout
from rakuten_tasks.data.photo_files import PhotoReader
from rakuten_tasks.data.schema import PRODUCTS, QUARANTINE, TEXT, CatalogueError
from rakuten_tasks.data.shards import Shard, ShardWriter, hash_photo, shard_rows
from rakuten_tasks.data.splits import hash_titles
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.storage.local_files import hash_json

BATCH = 64  # photos in memory at once
VALID_PHOTO = ("ok", "none")
EXPLANATIONS = {  # of issues whose name is not clear by itself
    "bad_label": ", prdtypecode is no whole number",
    "bad_productid": ", it is no whole number",
    "no_title": ", designation is empty or holds no text",
}


def ingest(
    source: str, out: Path, config: IngestConfig, labelled: bool = True, unlabelled: bool = True
) -> IngestResult:
    """Write the catalogue's rows and photos to `out` as Parquet, with a quarantine and a summary; see IngestResult.

    source: a folder, or an fsspec URL of one, or of a published catalogue; never written to. labelled, unlabelled:
    which parts to read; a catalogue with labelled rows may lack the unlabelled ones. Raises FileNotFoundError for
    missing files, and CatalogueError for unreadable ones, for labels that do not match rows, and for more than
    config.max_bad_share bad rows. A published catalogue was validated at publication, so its shards are copied,
    whatever the config.
    """
    for stale in [*out.glob("labelled-*.parquet"), *out.glob("unlabelled-*.parquet")]:
        stale.unlink()
    if (published := find_version(source)) is not None:
        return published.fetch(out, labelled, unlabelled)
    layout = find_layout(source)
    parts = _list_parts(layout, source, labelled, unlabelled)
    names = read_class_names(layout.filesystem, layout.classes) if layout.classes else {}
    out.mkdir(parents=True, exist_ok=True)
    quarantine = out / "quarantine.parquet"
    with pq.ParquetWriter(quarantine, QUARANTINE) as writer:
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
    """Rows to read: CSV file, row numbers, labels if there are any, and folders of photos."""

    name: str
    file: str
    rows: pd.Index
    labels: Labels | None
    photos: tuple[str, ...]


def _list_parts(layout: Layout, source: str, labelled: bool, unlabelled: bool) -> list[_Part]:
    parts = []
    if labelled:
        rows_file, labels_file = layout.train_rows, layout.train_labels
        if rows_file is None or labels_file is None:
            absent = " and ".join(n for n, f in ((TRAIN_ROWS[0], rows_file), (TRAIN_LABELS[0], labels_file)) if not f)
            raise FileNotFoundError(f"no {absent} in {source}: training needs both, put them there")
        rows = read_row_index(layout.filesystem, rows_file, PRODUCTS)
        labels = read_labels(layout.filesystem, labels_file)
        check_labels_match_rows(rows, labels.codes.index, rows_file, labels_file)
        parts.append(_Part("labelled", rows_file, rows, labels, layout.train_photos))
    if unlabelled and layout.test_rows:
        rows = read_row_index(layout.filesystem, layout.test_rows, PRODUCTS)
        parts.append(_Part("unlabelled", layout.test_rows, rows, None, layout.test_photos))
    elif not labelled:
        raise FileNotFoundError(f"no {TEST_ROWS[0]} in {source}: put the products to predict there")
    return parts


@dataclass(frozen=True)
class _IngestedPart:
    """Shards of a part. content: hash of all kept rows and photos."""

    shards: list[Shard]
    content: str
    counts: Counts
    class_counts: dict[int, int]


def _ingest_part(
    part: _Part, filesystem: AbstractFileSystem, out: Path, quarantine: pq.ParquetWriter, config: IngestConfig
) -> _IngestedPart:
    validator, writer = RowValidator(), ShardWriter(out, part.name, shard_rows(len(part.rows), config.rows_per_shard))
    outcomes = []
    with (
        PhotoReader(filesystem, part.photos, config) as photos,
        Progress(total=len(part.rows), desc=f"ingest {part.name}", unit=" products") as bar,
    ):
        for chunk in read_chunks(filesystem, part.file, PRODUCTS):
            rows = validator.validate(chunk, part.labels)
            bad = rows["issue"].notna() & (part.labels is not None)  # unlabelled rows are flagged, never dropped
            valid_rows, bad_rows = rows[~bad], rows[bad]
            quarantine.write_table(_quarantine_table(chunk.raw, bad_rows["issue"], part))
            outcomes.append(bad_rows[["issue"]])
            bar.update(len(bad_rows))
            for start in range(0, len(valid_rows), BATCH):
                batch = valid_rows.iloc[start : start + BATCH]
                batch = batch.join(photos.read(batch))
                batch["title_hash"] = hash_titles(batch["designation"])
                batch["photo_hash"] = pd.array([*map(hash_photo, batch["photo"])], "UInt64")
                writer.write(pa.Table.from_pandas(batch.reset_index(), TEXT, preserve_index=False), batch["photo"])
                outcomes.append(batch[["issue", "photo_status", "prdtypecode"]])
                bar.update(len(batch))
    writer.close()
    rows = pd.concat(outcomes).reindex(columns=["issue", "photo_status", "prdtypecode"])
    return _finish_part(part, rows, writer, config)


def _quarantine_table(raw: pd.DataFrame, reasons: pd.Series, part: _Part) -> pa.Table:
    rows = raw.loc[reasons.index].assign(part=part.name, reason=reasons)
    rows["prdtypecode"] = part.labels.raw[reasons.index] if part.labels else None
    return pa.Table.from_pandas(rows.reset_index(), QUARANTINE, preserve_index=False)


def _finish_part(part: _Part, outcomes: pd.DataFrame, writer: ShardWriter, config: IngestConfig) -> _IngestedPart:
    """Count and check a part. outcomes: by row number, prdtypecode, issue, photo_status (null if quarantined)."""
    is_valid = outcomes["photo_status"].notna()
    counts = Counts(
        read=len(part.rows),
        kept=sum(shard.rows for shard in writer.shards),
        quarantined=int((~is_valid).sum()),
        reasons=_tally(outcomes["issue"][~is_valid]),
        photos=_tally(outcomes["photo_status"]),
        issues=_tally(outcomes["issue"][is_valid]),
    )
    if counts.kept + counts.quarantined != counts.read:
        raise CatalogueError(f"{part.file}: {counts} does not add up: the file changed while it was read, run again")
    if part.labels is not None:
        _check_bad_share(part, outcomes, config)
    class_counts = {int(code): n for code, n in _tally(outcomes["prdtypecode"]).items()}
    return _IngestedPart(writer.shards, writer.content.hexdigest(), counts, class_counts)


def _tally(values: pd.Series) -> dict:
    return {value: int(n) for value, n in values.value_counts().sort_index().items()}


def _check_bad_share(part: _Part, outcomes: pd.DataFrame, config: IngestConfig) -> None:
    photo = outcomes["photo_status"].astype("str")  # all null, it would be float
    faults = outcomes["issue"].fillna("photo " + photo.where(~photo.isin(VALID_PHOTO))).dropna()
    bad_share = len(faults) / len(outcomes)
    if bad_share <= config.max_bad_share:
        return
    summary = "; ".join(
        f"{fault}{EXPLANATIONS.get(fault, '')}: {len(rows)} (rows {', '.join(map(str, rows.index[:3]))}"
        f"{', ...' if len(rows) > 3 else ''})"
        for fault, rows in faults.groupby(faults)
    )
    photos = ""
    if faults.str.startswith("photo ").any():
        photos = f"Photos were looked for in {', '.join(part.photos)}; a product without a photo has a blank imageid. "
    raise CatalogueError(
        f"{part.file}: {len(faults)} of {len(outcomes)} labelled rows are bad ({bad_share:.1%}, more than "
        f"max_bad_share = {config.max_bad_share:.1%}). {summary}. {photos}Mend them, or raise ingest.max_bad_share in "
        "the configuration"
    )
