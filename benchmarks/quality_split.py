"""A labelled catalogue under a split of each seed's own, for the quality benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from rakuten_tasks.catalogue.ingest import ingest, read_shard
from rakuten_tasks.catalogue.ledger import TEST, TRAIN, VALIDATION_A, VALIDATION_B, title_hash
from rakuten_tasks.catalogue.sample import SAMPLE, write_sample
from rakuten_tasks.catalogue.schema import CatalogueError
from rakuten_tasks.classifier.arrays import class_index, write_shard
from rakuten_tasks.classifier.photos import prepare_photos
from rakuten_tasks.config import IngestConfig

FOLDS = 12  # one for each validation, two for the test, eight to train on
SLICE = 512  # photos decoded at once


@dataclass(frozen=True)
class Split:
    """Labelled products and the side of each. Row i of each is the same product; no title is on two sides."""

    seed: int
    rows: pd.DataFrame  # designation, description, photo (bytes or None)
    labels: NDArray  # (N,) class index
    sides: NDArray  # (N,) position in ledger.SIDES
    codes: list[int]  # (K,)

    @property
    def held_out(self) -> NDArray:
        """Rows that are not trained on: validation A, validation B, test. (H,) ascending"""
        return np.flatnonzero(self.sides != TRAIN)

    def held_out_on(self, side: int) -> NDArray:
        """Which of the held-out rows are on this side. (H,) bool"""
        return self.sides[self.held_out] == side

    def texts(self, at: NDArray) -> tuple[list[str], list[str]]:
        """Titles and descriptions of these rows."""
        rows = self.rows.iloc[at]
        return rows["designation"].tolist(), rows["description"].tolist()

    def on(self, side: int) -> NDArray:
        """Rows of one side."""
        return np.flatnonzero(self.sides == side)


def read_catalogue(source: str, folder: Path, products: int, config: IngestConfig) -> pd.DataFrame:
    """The labelled rows that ingest keeps. products: how many of the synthetic sample, where that is the source.

    Raises CatalogueError as ingest does, and for a single class.
    """
    if source == SAMPLE:
        source = str(folder / "sample")
        write_sample(Path(source), products=products, unlabelled=0)
    ingested = ingest(source, folder / "catalogue", config, unlabelled=False)
    columns = ["designation", "description", "prdtypecode", "photo"]
    rows = pd.concat([read_shard(shard.path, columns) for shard in ingested.labelled], ignore_index=True)
    if rows["prdtypecode"].nunique() < 2:
        raise CatalogueError(f"{source}: all {len(rows)} labelled products are of one class: nothing to tell apart")
    return rows


def require_splits(rows: pd.DataFrame) -> None:
    """Raise ValueError if these rows are too few to split."""
    titles = len({title_hash(title) for title in rows["designation"]})
    if titles < FOLDS:
        raise ValueError(f"{len(rows)} labelled products of {titles} titles: from {FOLDS} titles on they can be split")


def splits(rows: pd.DataFrame, seeds: int) -> Iterator[Split]:
    """One split for each seed, by class and without parting products that share a title."""
    codes = sorted(rows["prdtypecode"].unique().tolist())
    labels = class_index(rows["prdtypecode"], codes)
    titles = [title_hash(title) for title in rows["designation"]]
    for seed in range(seeds):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        sides = np.full(len(rows), TRAIN, dtype=np.uint8)
        held_out = (VALIDATION_A, VALIDATION_B, TEST, TEST)
        for side, (_, fold) in zip(held_out, folds.split(rows, labels, titles), strict=False):
            sides[fold] = side
        yield Split(seed, rows, labels, sides, codes)


def write_arrays(split: Split, at: NDArray, arrays: dict[str, NDArray], path: Path) -> Path:
    """A shard such as the branches are trained on, of the rows `at`."""
    keys = {"row": at.astype(np.int64), "label": split.labels[at], "side": split.sides[at]}
    write_shard(path, keys | arrays)
    return path


def photographed(split: Split) -> NDArray:
    """Rows that have a photo."""
    return np.flatnonzero(split.rows["photo"].notna())


def pixels(split: Split, at: NDArray, side: int) -> NDArray:
    """Prepared photos of these rows. (len(at), side, side, 3)"""
    photos = split.rows["photo"].iloc[at].tolist()
    return np.concatenate([prepare_photos(photos[i : i + SLICE], side) for i in range(0, len(photos), SLICE)])
