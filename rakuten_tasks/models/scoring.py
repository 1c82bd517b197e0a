"""Scores of catalogue shards, one shard at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.shards import PHOTO_ROWS, Shard, iter_products, iter_text, open_parquet
from rakuten_tasks.models.members import Member
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.models.staged_logits import Embeddings, StagedLogits
from rakuten_tasks.preprocessing.feature_shards import FeatureTable
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.storage.read_ahead import map_ahead

# Products whose photos a reader of map_ahead holds, 7 MB of the challenge's: of a shard of 1,000, a split has fewer
READ_ROWS = 256


def products_of(rows: pd.DataFrame) -> list[Product]:
    """Convert catalogue rows to products; a null photo becomes None."""
    photos = [photo if isinstance(photo, bytes) else None for photo in rows["photo"]]
    return [Product(*fields) for fields in zip(rows["designation"], rows["description"], photos, strict=True)]


def read_assigned(shards: Sequence[Shard], assignments: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the products of these rows, at most READ_ROWS of a shard at a time, in the order of the assignments.

    assignments: row, shard (position in `shards`) and, to be passed on, split; ordered as in the shards.
    """

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        products = pd.concat(iter_products(shards[rows["shard"].iloc[0]], rows["row"]), ignore_index=True)
        return products.assign(**{name: rows[name].to_numpy() for name in rows.columns.intersection(["split"])})

    by_shard = (rows for _, rows in assignments.groupby("shard", sort=False))
    return map_ahead(read, (rows[i : i + READ_ROWS] for rows in by_shard for i in range(0, len(rows), READ_ROWS)))


def score_shard(predictor: Predictor, shard: Shard) -> Iterator[tuple[pd.DataFrame, Scores]]:
    """Score the products of a shard. Yields rows of schema.TEXT, at most TEXT_ROWS at a time, and their scores.

    The text of all these rows is scored before the photos of those that need one. A row group of photos is read only if
    one of them is in it.
    """
    with open_parquet(shard.photos) as file:
        read_group = lru_cache(maxsize=1)(lambda group: file.read_row_group(group)["photo"])
        start = 0
        for text in iter_text([shard.text]):

            def read_photo(row: int, start: int = start) -> bytes:
                group, position = divmod(start + row, PHOTO_ROWS)
                return read_group(group)[position].as_py()

            unread = text.assign(photo=text["photo_status"].map({"ok": b""}))  # the bytes are read when needed
            yield text, predictor.score(products_of(unread), read_photo)
            start += len(text)


def score_features(
    members: Mapping[str, Member], features: Mapping[str, Sequence[Path]], rows: NDArray, pool: Pool
) -> tuple[Logits, Embeddings]:
    """Compute all members' logits and embeddings from feature shards, with the bits of Predictor.logits.

    features: shards by extractor; rows: (N,) row numbers of the catalogue.
    """
    tables = {name: FeatureTable(paths) for name, paths in features.items()}

    def extract(names: Sequence[str], positions: NDArray) -> dict[str, NDArray]:
        return {key: value for name in names for key, value in tables[name].take(rows[positions]).items()}

    masks = {name: table.has(rows) for name, table in tables.items()}
    staged = StagedLogits(members, masks, extract, pool, members).finish()
    return staged.logits, staged.embeddings
