"""Scores of catalogue shards, one shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.shards import Shard, read_products
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.models.members import Member
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Embeddings, member_logits
from rakuten_tasks.preprocessing.feature_shards import FeatureTable
from rakuten_tasks.preprocessing.product import Product


def products_of(rows: pd.DataFrame) -> list[Product]:
    """Convert catalogue rows to products; a null photo becomes None."""
    photos = [photo if isinstance(photo, bytes) else None for photo in rows["photo"]]
    return [Product(*fields) for fields in zip(rows["designation"], rows["description"], photos, strict=True)]


def rows_on(
    shards: Sequence[Shard], title_splits: TitleSplits, splits: Collection[int], skip_empty: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield the rows of these splits, a shard at a time, with their split. skip_empty: omit shards without any."""
    for shard in shards:
        rows = read_products(shard)
        rows["split"] = title_splits.lookup(rows["designation"])
        selected = rows[np.isin(rows["split"], list(splits))]
        if len(selected) or not skip_empty:
            yield selected


def score_features(
    members: Mapping[str, Member], features: Mapping[str, Sequence[Path]], rows: NDArray, pool: Pool
) -> tuple[Logits, Embeddings]:
    """Compute all members' logits and embeddings from feature shards, with the bits of Predictor.logits.

    features: shards by extractor; rows: (N,) row numbers of the catalogue.
    """
    tables = {name: FeatureTable(paths) for name, paths in features.items()}

    def extract(names: Sequence[str], positions: NDArray) -> dict[str, NDArray]:
        return {key: value for name in names for key, value in tables[name].take(rows[positions]).items()}

    return member_logits(members, {name: table.has(rows) for name, table in tables.items()}, extract, pool, members)
