"""Extension of a published catalogue by a source's labelled products: new ones join, published ones are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, ROWS
from rakuten_tasks.data.shards import (
    TEXT_ROWS,
    Shard,
    ShardWriter,
    group_neighbours,
    iter_products,
    iter_text,
    join_shards,
    read_text,
    shard_rows,
)
from rakuten_tasks.data.versions.files import fetch_shard
from rakuten_tasks.data.versions.product_index import COLUMNS, ProductIndex
from rakuten_tasks.storage.parquet_files import iter_batches, write_row_groups

QUARANTINE_ROWS = 8192  # in a row group: the writer holds the footer's entries of all
NOT_KEPT = [name for name in QUARANTINE.names if name not in ("part", "reason")]


@dataclass(frozen=True)
class Extension:
    """Labelled products of a version that extends another.

    shards: published ones and new ones. class_counts: of the new products. read, quarantine: of the source; kept +
    quarantined = read.
    """

    shards: list[Shard]
    class_counts: dict[int, int]
    read: Counts
    quarantine: Path


def extend(
    published: Sequence[Shard], ingested: IngestResult, index: ProductIndex, config: PublicationConfig, work: Path
) -> Extension:
    """Write the source's new products to shards of their own, numbered from the last row on, and the others to a file.

    index: of the source's labelled products. work: a local folder. Of the published shards a few columns are read;
    they stay as they are, but for neighbours that are joined where there would be more than MAX_SHARDS.
    """
    index.clear()
    last = -1
    for shard in published:
        products = read_text(shard.text, ["row", *COLUMNS])
        index.mark_published(products)
        last = max(last, int(products["row"].max()))
    writer = ShardWriter(work, "added", shard_rows(index.new, config.ingest.rows_per_shard))
    counts, photos = Counter[int](), Counter[str]()
    for shard in ingested.labelled:
        for products in iter_products(shard, _new_rows(shard, index)):
            rows = products.assign(row=range(last + 1, last + 1 + len(products)))
            last += len(rows)
            writer.write(pa.Table.from_pandas(rows, ROWS, preserve_index=False), rows["photo"])
            counts.update(rows["prdtypecode"].tolist())
            photos.update(rows["photo_status"].tolist())
    writer.close()
    quarantine, reasons = work / "quarantine.parquet", Counter[str]()
    write_row_groups(quarantine, QUARANTINE, _rejected_rows(ingested, index, reasons), QUARANTINE_ROWS)
    return Extension(
        shards=_join_neighbours([*published, *writer.shards], work),
        class_counts=dict(counts),
        read=_count(ingested.counts["labelled"], reasons, photos),
        quarantine=quarantine,
    )


def _new_rows(shard: Shard, index: ProductIndex) -> pd.Series:
    """Return the numbers of the rows that are not published."""
    products = read_text(shard.text, ["row", *COLUMNS])
    return products["row"].drop(index.reject(products).index)


def _rejected_rows(ingested: IngestResult, index: ProductIndex, reasons: Counter[str]) -> Iterator[pa.Table]:
    """Yield the source's quarantine and the rows that are published already, and count these by reason."""
    for batch in iter_batches(ingested.quarantine, TEXT_ROWS):
        yield pa.Table.from_batches([batch], QUARANTINE)
    for products in iter_text([shard.text for shard in ingested.labelled], [*NOT_KEPT, "product_hash"]):
        reason = index.reject(products)
        rows = products.loc[reason.index, NOT_KEPT]
        texts = rows.drop(columns="row").astype("string").astype(object)
        texts = texts.assign(part="labelled", row=rows["row"], reason=reason)
        reasons.update(reason.tolist())
        yield pa.Table.from_pandas(texts, QUARANTINE, preserve_index=False)


def _count(read: Counts, reasons: Counter[str], photos: Counter[str]) -> Counts:
    return replace(
        read,
        kept=read.kept - reasons.total(),
        quarantined=read.quarantined + reasons.total(),
        reasons={**read.reasons, **dict(sorted(reasons.items()))},
        photos=dict(sorted(photos.items())),
    )


def _join_neighbours(shards: Sequence[Shard], work: Path) -> list[Shard]:
    """Return at most MAX_SHARDS shards with the same rows in the same order."""
    return [
        group[0]
        if len(group) == 1
        else join_shards([fetch_shard(shard, work / "joined") for shard in group], work, f"joined-{number}")
        for number, group in enumerate(group_neighbours(shards))
    ]
