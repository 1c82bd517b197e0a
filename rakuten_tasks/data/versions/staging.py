"""Staging of a published catalogue's next version: which rows join, which are left out, and whether it is valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.schema import QUARANTINE, CatalogueError
from rakuten_tasks.data.shards import Shard, ShardWriter, iter_shards
from rakuten_tasks.data.splits import TitleSplits, require_every_split
from rakuten_tasks.data.versions.manifest import PARTS, CatalogueVersion, StoredShard

LABELLED, UNLABELLED = PARTS
# why a row of an added source is left out
DUPLICATE = "already_published"
CONFLICT = "published_otherwise"  # the same productid with another title, description, label or photo
PRODUCT_COLUMNS = ["row", "productid", "prdtypecode", "designation", "photo_status", "issue"]


@dataclass(frozen=True)
class StagedVersion:
    """shards: by part, those published already and the new ones. products: of both parts, see `list_products`.

    read, quarantine: of the source; kept + quarantined = read.
    """

    shards: dict[str, list[Shard | StoredShard]]
    products: pd.DataFrame
    splits: TitleSplits
    read: dict[str, Counts]
    quarantine: pd.DataFrame
    names: dict[int, str]
    synthetic: bool
    adds: bool
    keeps_unlabelled: bool

    @property
    def labelled(self) -> pd.DataFrame:
        """The labelled products."""
        return self.products[self.products["part"] == LABELLED]

    @property
    def class_counts(self) -> dict[int, int]:
        """Labelled products by code, ascending."""
        return {int(code): int(n) for code, n in self.labelled["prdtypecode"].value_counts().sort_index().items()}

    @property
    def left_out(self) -> dict[str, int]:
        """Rows of the source by reason."""
        return {reason: int(n) for reason, n in self.quarantine["reason"].value_counts().sort_index().items()}

    def tally(self, column: str) -> dict[str, dict[str, int]]:
        """By part, how often each value stands in the column."""
        counted = {part: self.products.loc[self.products["part"] == part, column].value_counts() for part in PARTS}
        return {
            part: {str(value): int(n) for value, n in found.sort_index().items()} for part, found in counted.items()
        }

    def content(self, answers: pd.Series | None) -> str:
        """A hash of all that a reader gets."""
        rows = list(zip(*(self.products[name].tolist() for name in ("part", "row", "digest")), strict=True))
        known = None if answers is None else [answers.index.tolist(), answers.tolist()]
        names = {str(code): name for code, name in self.names.items()}
        return hashlib.sha256(json.dumps([rows, names, self.synthetic, known], sort_keys=True).encode()).hexdigest()


def list_products(ingested: IngestResult) -> pd.DataFrame:
    """Every product that was read, without its photo: part, PRODUCT_COLUMNS, and a digest of all but its row number."""
    parts = [
        rows[PRODUCT_COLUMNS].assign(part=part, digest=[_digest(row) for row in rows.to_dict("records")])
        for part, shards in ((LABELLED, ingested.labelled), (UNLABELLED, ingested.unlabelled))
        for rows in iter_shards([shard.path for shard in shards])
    ]
    return pd.concat(parts, ignore_index=True)


def _digest(row: dict) -> str:
    numbers = (None if pd.isna(row[name]) else int(row[name]) for name in ("productid", "imageid", "prdtypecode"))
    told = json.dumps([*numbers, row["designation"], row["description"], row["photo_status"]])
    return hashlib.sha256(told.encode() + b"\n" + (row["photo"] or b"")).hexdigest()[:32]


def stage_version(
    ingested: IngestResult,
    read: pd.DataFrame,
    before: CatalogueVersion | None,
    config: PublicationConfig,
    add: bool,
    work: Path,
) -> StagedVersion:
    """The version that comes after `before`. read: of `list_products`. add: see commit.publish. work: a local folder.

    Added products are numbered on from the last row; those to predict take the place of the earlier ones, if there are
    any. The splits of the version before are extended and never changed.
    """
    old = before.table(before.manifest.products) if before else read.iloc[:0]
    adds = add and before is not None
    joining = StagedVersion(
        shards={LABELLED: list(ingested.labelled), UNLABELLED: list(ingested.unlabelled)},
        products=read,
        splits=_load_splits(before, work),
        read=ingested.counts,
        quarantine=pd.read_parquet(ingested.quarantine),
        names=ingested.names,
        synthetic=ingested.synthetic,
        adds=adds,
        keeps_unlabelled=adds and not ingested.unlabelled,
    )
    draft = _merge(joining, ingested, old, before, config, work) if adds and before else joining
    rows = draft.labelled
    splits = draft.splits.extended(rows["designation"].tolist(), rows["prdtypecode"].tolist(), config.split)
    return replace(draft, splits=splits)


def _load_splits(before: CatalogueVersion | None, work: Path) -> TitleSplits:
    if before is None:
        return TitleSplits.empty()
    work.mkdir(parents=True, exist_ok=True)
    path = work / "splits.parquet"
    path.write_bytes(before.read(before.manifest.splits))
    return TitleSplits.load(path)


def _merge(
    draft: StagedVersion,
    ingested: IngestResult,
    old: pd.DataFrame,
    before: CatalogueVersion,
    config: PublicationConfig,
    work: Path,
) -> StagedVersion:
    there = old[old["part"] == LABELLED]
    new = draft.labelled
    known = new["productid"].map(dict(zip(there["productid"], there["digest"], strict=True)))
    reasons = pd.Series(np.where(known == new["digest"], DUPLICATE, CONFLICT), new.index).where(known.notna())
    kept = reasons.isna().to_numpy()
    first = int(there["row"].max()) + 1
    added = new[kept].assign(row=pd.array(range(first, first + kept.sum()), "Int64"))
    asked = old if draft.keeps_unlabelled else draft.products
    to_predict = asked[asked["part"] == UNLABELLED]
    rows = _renumbered(ingested.labelled, kept, first, work, config.ingest.rows_per_shard)
    unlabelled = before.manifest.unlabelled if draft.keeps_unlabelled else draft.shards[UNLABELLED]
    rejected = _rejected(ingested.labelled, reasons.dropna())
    return replace(
        draft,
        shards={LABELLED: [*before.manifest.labelled, *rows], UNLABELLED: list(unlabelled)},
        products=pd.concat([there, added, to_predict], ignore_index=True),
        read={**draft.read, LABELLED: _counted(draft.read[LABELLED], reasons.dropna(), added)},
        quarantine=pd.concat([frame for frame in (draft.quarantine, rejected) if len(frame)] or [rejected]),
        names={**{int(code): name for code, name in before.manifest.names.items()}, **draft.names},
    )


def _renumbered(shards: Sequence[Shard], kept: np.ndarray, first: int, work: Path, rows_per_shard: int) -> list[Shard]:
    """The kept rows in shards of their own, numbered from `first`. kept: (rows of all shards,) bool"""
    work.mkdir(parents=True, exist_ok=True)
    writer, start = ShardWriter(work, "added", rows_per_shard), 0
    for shard in shards:
        mask = kept[start : start + shard.rows]
        start += shard.rows
        if mask.any():
            rows = pq.read_table(shard.path).filter(pa.array(mask))
            numbers = pa.array(range(first, first + len(rows)), pa.int64())
            first += len(rows)
            writer.write(rows.set_column(0, rows.schema.field("row"), numbers))
    writer.close()
    return writer.shards


def _rejected(shards: Sequence[Shard], reasons: pd.Series) -> pd.DataFrame:
    """Rows of schema.QUARANTINE. reasons: by position among the rows of all shards"""
    columns = [name for name in QUARANTINE.names if name not in ("part", "reason")]
    rows = pd.concat(iter_shards([shard.path for shard in shards], columns), ignore_index=True).loc[reasons.index]
    texts = rows.drop(columns="row").astype("string").astype(object)
    return texts.assign(part=LABELLED, row=rows["row"], reason=reasons)[QUARANTINE.names]


def _counted(read: Counts, reasons: pd.Series, added: pd.DataFrame) -> Counts:
    return replace(
        read,
        kept=read.kept - len(reasons),
        quarantined=read.quarantined + len(reasons),
        reasons={**read.reasons, **{reason: int(n) for reason, n in reasons.value_counts().items()}},
        photos={str(status): int(n) for status, n in added["photo_status"].value_counts().sort_index().items()},
    )


def validate_staged(draft: StagedVersion, before: CatalogueVersion | None, config: PublicationConfig) -> None:
    """CatalogueError for a catalogue that nothing could be trained on, or that has lost what the one before had."""
    rows = draft.labelled
    if rows.empty:
        raise CatalogueError("nothing to publish: no labelled product was kept; see the quarantine's reasons")
    if before:
        _require_no_loss(draft, before, config)
    try:
        require_every_split(draft.splits.lookup(rows["designation"]), rows["prdtypecode"].tolist())
    except ValueError as error:
        raise CatalogueError(f"not published: {error}") from error


def _require_no_loss(draft: StagedVersion, before: CatalogueVersion, config: PublicationConfig) -> None:
    there, rows = before.manifest, len(draft.labelled)
    version = f"version {there.version} of {before.root}"
    lost = sorted(set(map(int, there.class_counts)) - set(draft.class_counts))
    _refuse(
        bool(lost) and not config.may_lose_classes,
        f"class {', '.join(map(str, lost[:5]))} of {version} has no product any more ({len(lost)} lost)",
        "add to what is there, or set may_lose_classes: true",
    )
    _refuse(
        rows < config.min_kept_share * there.rows(LABELLED),
        f"{rows} labelled products where {version} has {there.rows(LABELLED)}",
        f"complete the source, add to what is there, or lower min_kept_share = {config.min_kept_share}",
    )
    _refuse(
        draft.adds and draft.synthetic != there.synthetic,
        f"{'made-up' if draft.synthetic else 'real'} products would join {version}, whose are not",
        "publish them to another address",
    )


def _refuse(broken: bool, what: str, mend: str) -> None:
    if broken:
        raise CatalogueError(f"not published: {what}: {mend}")
