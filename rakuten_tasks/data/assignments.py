"""Rows of a labelled catalogue on their splits: counts, folds, and photos that several splits have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.shards import read_text
from rakuten_tasks.data.splits import FOLDS, SPLITS, TEST, TRAIN, TitleSplits
from rakuten_tasks.data.title_sketch import TitleChunks


def read_titles(files: Sequence[Path | str]) -> TitleChunks:
    """Stream the labelled rows of shards' text files, a file at a time."""
    return lambda: (
        (rows["title_hash"].to_numpy(np.uint64), rows["prdtypecode"].to_numpy(np.int64))
        for rows in (read_text(file, ["title_hash", "prdtypecode"]) for file in files)
    )


def count_rows(title_splits: TitleSplits, chunks: TitleChunks) -> dict[int, NDArray[np.int64]]:
    """Count the labelled rows of each class, ascending by code, on each split. (4,) for each"""
    counts: defaultdict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(SPLITS), dtype=np.int64))
    for hashes, codes in chunks():
        splits = title_splits.lookup(hashes)
        for code in np.unique(codes).tolist():
            counts[code] += np.bincount(splits[codes == code], minlength=len(SPLITS))
    return dict(sorted(counts.items()))


def require_every_split(counts: Mapping[int, NDArray[np.int64]]) -> None:
    """Raise ValueError unless each split has a row and training has two classes. counts: see count_rows."""
    table = np.array(list(counts.values()), dtype=np.int64).reshape(-1, len(SPLITS))
    empty = [name for name, rows in zip(SPLITS, table.sum(axis=0), strict=True) if not rows]
    trained_on = int((table[:, TRAIN] > 0).sum())
    if empty or trained_on < 2:
        lack = f"no product on {', '.join(empty)}" if empty else f"{trained_on} class in training"
        raise ValueError(
            f"{lack}: {table.sum()} labelled products of {len(counts)} classes are too few to split; "
            "add products until two classes have four different titles each"
        )


def assign_folds(hashes: NDArray[np.uint64], codes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return a fold, 0 to folds - 1, for each row: rows that share a title share a fold. (N,), (N,) -> (N,)

    A class's titles go to the folds in turn, so that a class of two titles is in two folds. The same titles and codes
    give the same folds in any order.
    """
    titles, title_of = np.unique(hashes, return_inverse=True)
    lowest_code = np.full(len(titles), np.iinfo(np.int64).max)
    np.minimum.at(lowest_code, title_of, codes)
    fold_of = np.empty(len(titles), dtype=np.int64)
    fold_of[np.lexsort((titles, lowest_code))] = np.arange(len(titles)) % folds
    return fold_of[title_of]


def fold_rows(hashes: NDArray[np.uint64], codes: NDArray[np.int64], splits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Assign a fold to every row but the test rows, which get -1: their labels would change the other rows' folds.

    (N,), (N,), (N,) -> (N,)
    """
    folds, fitted = np.full(len(splits), -1, dtype=np.int64), splits != TEST
    folds[fitted] = assign_folds(hashes[fitted], codes[fitted], FOLDS)
    return folds


def count_shared_photos(photos: Sequence[Hashable], splits: NDArray[np.uint8]) -> tuple[int, list[int]]:
    """Count photos of training products that products of other splits have too: titles differ, so splits may.

    photos: identifies each row's photo file, None for no photo. (N,), (N,) -> the number of such photos, and by split
    the number of rows with one, 0 for TRAIN.
    """
    rows = pd.DataFrame({"photo": photos, "split": splits}).dropna()
    trained, held_out = rows["photo"][rows["split"] == TRAIN], rows[rows["split"] != TRAIN]
    shared = held_out[held_out["photo"].isin(trained)]
    counts = shared["split"].value_counts()
    return shared["photo"].nunique(), [int(counts.get(split, 0)) for split in range(len(SPLITS))]
