"""Rows of catalogue shards -> products -> what the branches say, a shard at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import Ledger
from rakuten_tasks.classifier.arrays import class_index
from rakuten_tasks.classifier.branches import Branch, Product, branch_logits
from rakuten_tasks.classifier.fusion import Logits


@dataclass(frozen=True)
class ScoredRows:
    """Rows of some sides and each branch's logits for them; row i of each is the same product."""

    rows: pd.DataFrame  # row, productid, designation, description, prdtypecode, side
    labels: NDArray  # (N,) int64: class index
    logits: Logits

    def on(self, side: int) -> ScoredRows:
        """Only the rows of one side."""
        keep = self.rows["side"].to_numpy() == side
        return ScoredRows(
            self.rows[keep].reset_index(drop=True),
            self.labels[keep],
            Logits(
                {name: scores[keep] for name, scores in self.logits.by_branch.items()},
                {name: mask[keep] for name, mask in self.logits.seen.items()},
            ),
        )


def products_of(rows: pd.DataFrame) -> list[Product]:
    """Catalogue rows -> products; a null photo is None."""
    photos = [photo if isinstance(photo, bytes) else None for photo in rows["photo"]]
    return [Product(*fields) for fields in zip(rows["designation"], rows["description"], photos, strict=True)]


def rows_on(
    shards: Sequence[Path], ledger: Ledger, sides: Collection[int], skip_empty: bool = False
) -> Iterator[pd.DataFrame]:
    """The rows of these sides, a shard at a time, with their side. skip_empty: not the shards that have none."""
    for path in shards:
        rows = read_shard(path)
        rows["side"] = ledger.sides(rows["designation"])
        found = rows[np.isin(rows["side"], list(sides))]
        if len(found) or not skip_empty:
            yield found


def score_sides(
    shards: Sequence[Path], ledger: Ledger, sides: Collection[int], branches: Sequence[Branch], codes: Sequence[int]
) -> ScoredRows:
    """What each branch says of the rows of these sides, from raw text and photo bytes, as in serving."""
    parts, frames = [], []
    for rows in tqdm(rows_on(shards, ledger, sides), total=len(shards), desc="scoring shards"):
        parts.append(branch_logits(branches, products_of(rows), len(codes)))
        frames.append(rows.drop(columns=["photo"]))
    frame = pd.concat(frames, ignore_index=True)
    logits = Logits(
        {branch.name: np.concatenate([part.by_branch[branch.name] for part in parts]) for branch in branches},
        {branch.name: np.concatenate([part.seen[branch.name] for part in parts]) for branch in branches},
    )
    return ScoredRows(frame, class_index(frame["prdtypecode"], codes), logits)
