"""Staging of a published catalogue's next version: which rows join, which are left out, and whether it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.answers import match_labels
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, TEXT, CatalogueError
from rakuten_tasks.data.shards import Shard, ShardWriter, hash_product, iter_products, iter_text
from rakuten_tasks.data.splits import TitleSplits, require_every_split
from rakuten_tasks.data.versions.manifest import PARTS, CatalogueVersion, StoredShard
from rakuten_tasks.storage.local_files import hash_json

LABELLED, UNLABELLED = PARTS
# reasons why a row of an added source is left out
DUPLICATE = "already_published"
CONFLICT = "published_otherwise"  # the same productid with another title, description, label or photo
PRODUCT_COLUMNS = ["row", "productid", "prdtypecode", "designation", "photo_status", "issue"]


@dataclass(frozen=True)
class StagedVersion:
    """Content of the next version before its files are written.

    shards: by part, published and new ones. products: of both parts, see `list_products`. answers: codes of the
    unlabelled rows, if known. read, quarantine: of the source; kept + quarantined = read. added_to: the version that
    this one extends, 0 for none.
    """

    shards: dict[str, list[Shard | StoredShard]]
    products: pd.DataFrame
    splits: TitleSplits
    answers: pd.Series | None
    read: dict[str, Counts]
    quarantine: pd.DataFrame
    names: dict[int, str]
    synthetic: bool
    added_to: int

    @property
    def labelled(self) -> pd.DataFrame:
        """Labelled products."""
        return self.products[self.products["part"] == LABELLED]

    @property
    def class_counts(self) -> dict[int, int]:
        """Labelled products by code, ascending."""
        return {int(code): n for code, n in _tally(self.labelled["prdtypecode"]).items()}

    @property
    def left_out(self) -> dict[str, int]:
        """Rows of the source that were left out, by reason."""
        return _tally(self.quarantine["reason"])

    def tally(self, column: str) -> dict[str, dict[str, int]]:
        """Return the number of products by part and value of the column."""
        return {part: _tally(self.products.loc[self.products["part"] == part, column]) for part in PARTS}

    @property
    def content(self) -> str:
        """Hash of everything a reader gets."""
        rows = list(zip(*(self.products[name].tolist() for name in ("part", "row", "digest")), strict=True))
        answers = None if self.answers is None else [self.answers.index.tolist(), self.answers.tolist()]
        return hash_json([rows, self.names, self.synthetic, answers])


def _tally(values: pd.Series) -> dict[str, int]:
    return {str(value): int(n) for value, n in values.value_counts().sort_index().items()}


def list_products(ingested: IngestResult) -> pd.DataFrame:
    """Return all products without their photos: part, PRODUCT_COLUMNS, and a hash of all but the row number."""
    parts = [
        rows[PRODUCT_COLUMNS].assign(part=part, digest=[_digest(row) for row in rows.to_dict("records")])
        for part, shards in ((LABELLED, ingested.labelled), (UNLABELLED, ingested.unlabelled))
        for shard in shards
        for rows in iter_products(shard)
    ]
    return pd.concat(parts, ignore_index=True)


def _digest(row: dict) -> str:
    numbers = [None if pd.isna(row[name]) else int(row[name]) for name in ("productid", "imageid", "prdtypecode")]
    return hash_product([*numbers, row["designation"], row["description"], row["photo_status"]], row["photo"])[:32]


def stage_version(
    ingested: IngestResult,
    answers: pd.Series | None,
    products: pd.DataFrame,
    before: CatalogueVersion | None,
    config: PublicationConfig,
    add: bool,
    work: Path,
) -> StagedVersion:
    """Return the version after `before`. products: see `list_products`. work: a local folder.

    add: keep the published products, add the source's new labelled ones, numbered from the last row on, and replace
    the unlabelled ones, if the source has any. The splits of the version before are extended and never changed.
    """
    work.mkdir(parents=True, exist_ok=True)
    base = before if add else None
    published = base.table(base.manifest.products) if base else products.iloc[:0]
    published_labelled, labelled = (rows[rows["part"] == LABELLED] for rows in (published, products))
    reasons = _reject_published(labelled, published_labelled)
    is_new = ~labelled.index.isin(reasons.index)
    added, shards = labelled[is_new], [*ingested.labelled]
    if base:
        first = int(published_labelled["row"].max()) + 1
        added = added.assign(row=pd.array(range(first, first + len(added)), "Int64"))
        shards = _renumber(ingested.labelled, is_new, first, work, config.ingest.rows_per_shard)
    unlabelled_base = base if base and not ingested.unlabelled else None
    unlabelled = published if unlabelled_base else products
    all_products = pd.concat(
        [published_labelled, added, unlabelled[unlabelled["part"] == UNLABELLED]], ignore_index=True
    )
    quarantine, rejected = pd.read_parquet(ingested.quarantine), _rejected_rows(ingested.labelled, reasons)
    names = base.manifest.names if base else {}
    return StagedVersion(
        shards={
            LABELLED: [*(base.manifest.labelled if base else []), *shards],
            UNLABELLED: [*(unlabelled_base.manifest.unlabelled if unlabelled_base else ingested.unlabelled)],
        },
        products=all_products,
        splits=_extend_splits(before, all_products, config, work),
        answers=unlabelled_base.answers() if unlabelled_base else answers,
        read={**ingested.counts, LABELLED: _count_added(ingested.counts[LABELLED], reasons, added)},
        quarantine=pd.concat([rows for rows in (quarantine, rejected) if len(rows)] or [rejected]),
        names={**{int(code): name for code, name in names.items()}, **ingested.names},
        synthetic=ingested.synthetic,
        added_to=base.manifest.version if base else 0,
    )


def _reject_published(labelled: pd.DataFrame, published: pd.DataFrame) -> pd.Series:
    """Return the reasons to leave out the products whose productid is published, indexed as `labelled`."""
    hashes = labelled["productid"].map(dict(zip(published["productid"], published["digest"], strict=True)))
    return pd.Series(np.where(hashes == labelled["digest"], DUPLICATE, CONFLICT), labelled.index)[hashes.notna()]


def _extend_splits(
    before: CatalogueVersion | None, products: pd.DataFrame, config: PublicationConfig, work: Path
) -> TitleSplits:
    splits = TitleSplits.empty()
    if before:
        path = work / "splits.parquet"
        path.write_bytes(before.read(before.manifest.splits))
        splits = TitleSplits.load(path)
    rows = products[products["part"] == LABELLED]
    return splits.extended(rows["designation"].tolist(), rows["prdtypecode"].tolist(), config.split)


def _renumber(shards: Sequence[Shard], is_new: np.ndarray, first: int, work: Path, rows_per_shard: int) -> list[Shard]:
    """Write the new rows to shards, numbered from `first`. is_new: (rows of all shards,) bool"""
    writer, start = ShardWriter(work, "added", rows_per_shard), 0
    for shard in shards:
        for products in iter_products(shard):
            rows = products[is_new[start : start + len(products)]]
            start += len(products)
            rows = rows.assign(row=range(first, first + len(rows)))
            first += len(rows)
            writer.write(pa.Table.from_pandas(rows, TEXT, preserve_index=False), rows["photo"])
    writer.close()
    return writer.shards


def _rejected_rows(shards: Sequence[Shard], reasons: pd.Series) -> pd.DataFrame:
    """Return rows of schema.QUARANTINE. reasons: by position among the rows of all shards"""
    columns = [name for name in QUARANTINE.names if name not in ("part", "reason")]
    rows = pd.concat(iter_text([shard.text for shard in shards], columns), ignore_index=True).loc[reasons.index]
    texts = rows.drop(columns="row").astype("string").astype(object)
    return texts.assign(part=LABELLED, row=rows["row"], reason=reasons)[QUARANTINE.names]


def _count_added(read: Counts, reasons: pd.Series, added: pd.DataFrame) -> Counts:
    return replace(
        read,
        kept=read.kept - len(reasons),
        quarantined=read.quarantined + len(reasons),
        reasons={**read.reasons, **_tally(reasons)},
        photos=_tally(added["photo_status"]),
    )


def validate_staged(staged: StagedVersion, before: CatalogueVersion | None, config: PublicationConfig) -> None:
    """Raise CatalogueError if nothing could be trained on the version, or it lost what the version before had."""
    rows = staged.labelled
    if rows.empty:
        raise CatalogueError("nothing to publish: no labelled product was kept; see the quarantine's reasons")
    _require_matching_answers(staged)
    if before:
        _require_no_loss(staged, before, config)
    try:
        require_every_split(staged.splits.lookup(rows["designation"]), rows["prdtypecode"].tolist())
    except ValueError as error:
        raise CatalogueError(f"not published: {error}") from error


def _require_matching_answers(staged: StagedVersion) -> None:
    if staged.answers is None:
        return
    rows = staged.products.loc[staged.products["part"] == UNLABELLED, "row"]
    mismatch = match_labels(staged.answers, pd.Index(rows.astype("int64")), staged.class_counts).mismatch
    if mismatch:
        raise CatalogueError(
            f"not published: the labels of the products to predict (Y_test.csv) do not match them: {mismatch}: give "
            "each product one label, of a class that has labelled products, or take the file away"
        )


def _require_no_loss(staged: StagedVersion, before: CatalogueVersion, config: PublicationConfig) -> None:
    manifest, rows = before.manifest, len(staged.labelled)
    version = f"version {manifest.version} of {before.files.root}"
    lost = sorted(set(map(int, manifest.class_counts)) - set(staged.class_counts))
    if lost and not config.may_lose_classes:
        raise CatalogueError(
            f"not published: class {', '.join(map(str, lost[:5]))} of {version} has no product any more "
            f"({len(lost)} lost): add to that version, or set may_lose_classes: true"
        )
    if rows < config.min_kept_share * manifest.rows(LABELLED):
        raise CatalogueError(
            f"not published: {rows} labelled products where {version} has {manifest.rows(LABELLED)}: complete the "
            f"source, add to that version, or lower min_kept_share = {config.min_kept_share}"
        )
    if staged.added_to and staged.synthetic != manifest.synthetic:
        raise CatalogueError(
            f"not published: {'made-up' if staged.synthetic else 'real'} products would join {version}, whose are not: "
            "publish them to another address"
        )
