"""Index of the products of a source by productid: which of them a catalogue has already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.number_files import locate, open_map
from rakuten_tasks.data.shards import Shard, read_text

# reasons why a row of an added source is left out
DUPLICATE = "already_published"
CONFLICT = "published_otherwise"  # the same productid with another title, description, label or photo
COLUMNS = ["productid", "product_hash"]


class ProductIndex:
    """Productids of a source, ascending, and the hash under which each is published: 17 bytes a product in files.

    Memory maps of files are no memory of the process: the system drops their pages when it needs them.
    """

    def __init__(self, shards: Sequence[Shard], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = sum(shard.rows for shard in shards)
        self._ids: NDArray[np.int64] = open_map(folder / "productid", "w+", rows)
        self._hashes: NDArray[np.uint64] = open_map(folder / "product_hash", "w+", rows, np.uint64)
        self._published: NDArray[np.bool_] = open_map(folder / "published", "w+", rows, np.bool_)
        start = 0
        for shard in shards:
            self._ids[start : start + shard.rows] = read_text(shard.text, COLUMNS[:1])["productid"]
            start += shard.rows
        self._ids.sort()

    def mark_published(self, products: pd.DataFrame) -> None:
        """Remember the productids, and the hash of each, that are published. products: COLUMNS"""
        position, is_known = locate(self._ids, products["productid"].to_numpy(np.int64))
        self._published[position[is_known]] = True
        self._hashes[position[is_known]] = products["product_hash"].to_numpy(np.uint64)[is_known]

    def clear(self) -> None:
        """Forget what is published."""
        self._published[:] = False

    @property
    def new(self) -> int:
        """Number of products that are not published."""
        return len(self._ids) - int(np.count_nonzero(self._published))

    def reject(self, products: pd.DataFrame) -> pd.Series:
        """Return the reason to leave out each product that is published, indexed as `products`. products: COLUMNS"""
        position, _ = locate(self._ids, products["productid"].to_numpy(np.int64))
        same = self._hashes[position] == products["product_hash"].to_numpy(np.uint64)
        return pd.Series(np.where(same, DUPLICATE, CONFLICT), products.index)[self._published[position]]
