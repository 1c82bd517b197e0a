"""Which labelled rows a training uses: all of a split within its budget, else a sample by hash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.config import SampleConfig
from rakuten_tasks.data.csv_files import format_rows
from rakuten_tasks.data.shards import read_text
from rakuten_tasks.data.splits import SPLITS, TRAIN, TitleSplits
from rakuten_tasks.data.title_sketch import uniform

SALT = 0x73616D706C65  # other than that of splits.HashRule: the sample does not depend on the split
# Fractions of a class that is sampled are powers of STEP: a catalogue that grows by a thousandth keeps its sample, and
# few features are computed again
STEP = 0.9
# Rows of a class that stay, as far as half of the budget suffices. Held-out splits need few: figures are weighted by
# the rows of the sample.
LEAST = (5000, 100, 100, 100)
EXPECTED_ROWS = 20  # in the sample, of a class: then the chance that it has none is 2 in 10^9
COLUMNS = ["row", "title_hash", "prdtypecode", "photo_hash"]


def sample_fractions(counts: Mapping[int, NDArray[np.int64]], config: SampleConfig) -> dict[int, NDArray[np.float64]]:
    """Return, by class code, the fraction of the rows of each split that is used. counts: see count_rows. (4,)"""
    rows = np.array(list(counts.values()))  # (K, 4)
    budgets = (config.training, config.validation, config.blending, config.test)
    columns = [_fractions(rows[:, i], budgets[i], LEAST[i]) for i in range(len(SPLITS))]
    return dict(zip(counts, np.stack(columns, axis=1), strict=True))


def _fractions(rows: NDArray[np.int64], budget: int, least: float) -> NDArray[np.float64]:
    """Return the largest fractions with which the expected number of rows is in the budget. (K,) -> (K,)"""
    if rows.sum() <= budget:
        return np.ones(len(rows))
    least = min(least, budget / (2 * len(rows)))
    steps = np.floor(np.log(least / np.maximum(rows, least)) / math.log(STEP))
    lowest = STEP**steps
    for step in count():
        fractions = np.maximum(STEP**step, lowest)
        if (rows * fractions).sum() <= budget:
            return fractions
    raise AssertionError("unreachable: the classes' lowest fractions fit in the budget")


def select_rows(
    files: Sequence[Path | str], title_splits: TitleSplits, fractions: Mapping[int, NDArray[np.float64]]
) -> pd.DataFrame:
    """Read the rows that a training uses: COLUMNS, shard (position in `files`) and split, in the files' order.

    files: text files of the labelled shards. A row is used if its product's hash is below the fraction of its class, so
    that a title of very many rows does not exceed the budget. Raises ValueError if a split has no row.
    """
    codes, limits = list(fractions), np.stack(list(fractions.values()))  # (K,), (K, 4)
    parts = []
    for position, file in enumerate(files):
        rows = read_text(file, [*COLUMNS, "product_hash"])
        splits = title_splits.lookup(rows["title_hash"].to_numpy(np.uint64))
        classes = np.searchsorted(codes, rows["prdtypecode"].to_numpy(np.int64))
        used = uniform(rows["product_hash"].to_numpy(np.uint64), SALT) < limits[classes, splits]
        parts.append(rows.loc[used, COLUMNS].assign(shard=np.int32(position), split=splits[used]))
    selected = pd.concat(parts, ignore_index=True)
    if empty := [name for split, name in enumerate(SPLITS) if split not in selected["split"].to_numpy()]:
        raise ValueError(f"no row of {', '.join(empty)} is in the sample: increase `sample` in the configuration")
    return selected


def require_trained_classes(counts: Mapping[int, NDArray[np.int64]], selected: pd.DataFrame) -> None:
    """Raise ValueError if no training row of a class is in the sample: no member could ever predict that class.

    counts: of all rows, see count_rows. selected: as select_rows returns them.
    """
    sampled = set(selected.loc[selected["split"] == TRAIN, "prdtypecode"])
    lost = np.array([code for code, rows in counts.items() if rows[TRAIN] and code not in sampled])
    if len(lost):
        raise ValueError(
            f"no training row of class {format_rows(lost)} is in the sample, and each has some: set sample.training in "
            f"the configuration to {2 * EXPECTED_ROWS * len(counts)} or more, for the catalogue's {len(counts)} classes"
        )
