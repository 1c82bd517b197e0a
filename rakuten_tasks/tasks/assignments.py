"""The labelled rows that a training uses, with their classes and splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from rakuten_tasks.data.shards import iter_text
from rakuten_tasks.preprocessing.feature_shards import class_index
from rakuten_tasks.runtime.files import local, located
from rakuten_tasks.storage.read_ahead import map_ahead
from rakuten_tasks.tasks.types import Catalogue, Shard, Splits


def read_assignments(splits: Splits, catalogue: Catalogue) -> pd.DataFrame:
    """Read row, prdtypecode, shard, split, fold and label (class index) of every row used, in the shards' order."""
    assignments = pd.read_parquet(local(splits.assignments))
    return assignments.assign(label=class_index(assignments["prdtypecode"], catalogue.codes))


def read_texts(shards: Sequence[Shard], assignments: pd.DataFrame, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield columns of schema.TEXT, `row` among them, of the assigned rows, a shard at a time, in their order."""
    files = [located(shard.text) for shard in shards]

    def read(position: int) -> pd.DataFrame:
        rows = assignments.loc[assignments["shard"] == position, "row"]
        parts = [part[part["row"].isin(rows)] for part in iter_text([files[position]], columns)]
        return pd.concat(parts, ignore_index=True)

    return map_ahead(read, assignments["shard"].unique().tolist())
