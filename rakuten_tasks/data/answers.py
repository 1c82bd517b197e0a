"""Labels of products to predict, as in Y_test.csv: which of them belong to the products beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.csv_files import format_rows
from rakuten_tasks.data.number_files import NumberFile, blocks, locate
from rakuten_tasks.data.part_index import LabelIndex
from rakuten_tasks.data.schema import whole_numbers
from rakuten_tasks.data.shards import iter_text

STRAY, MISSING = "labels of rows that are no product", "products without a label"
BLANK, UNKNOWN = "labels that are blank or no whole number", "labels of an unknown class"


class Mismatch:
    """Numbers of rows whose labels do not match, by what is wrong; of each kind, the first three rows are kept."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._first: dict[str, NDArray[np.int64]] = {}

    def add(self, kind: str, rows: NDArray[np.int64]) -> None:
        """Count rows."""
        self._counts[kind] += len(rows)
        self._first[kind] = np.append(self._first.get(kind, rows[:0]), rows[:3])[:3]

    def __str__(self) -> str:
        """Describe what does not match, in one line; empty if everything does."""
        counts = [(kind, n, format_rows(self._first[kind], n)) for kind, n in self._counts.items() if n]
        return "; ".join(f"{kind}: {n} (rows {rows})" for kind, n, rows in counts)


@dataclass(frozen=True)
class MatchedLabels:
    """Labels that belong to products.

    codes: int64 by row. mismatch: what does not match, in one line; empty if each product has one known label.
    """

    codes: pd.Series
    mismatch: str


def match_labels(labels: pd.Series, rows: pd.Index, known: Collection[int] | None = None) -> MatchedLabels:
    """Match labels with products by row number.

    labels: codes by row, <NA> where a code is no whole number. rows: of the products. known: codes of all classes;
    None for any.
    """
    codes = labels[labels.index.isin(rows)]
    blank = codes.isna()
    unknown = ~blank & ~codes.isin(list(known)) if known is not None else blank & False
    mismatch = Mismatch()
    mismatch.add(STRAY, labels.index.difference(rows).to_numpy())
    mismatch.add(MISSING, rows.difference(labels.index).to_numpy())
    mismatch.add(BLANK, codes.index[blank].to_numpy())
    mismatch.add(UNKNOWN, codes.index[unknown].to_numpy())
    return MatchedLabels(codes[~blank & ~unknown].astype("int64"), str(mismatch))


def write_labels(labels: LabelIndex, texts: Sequence[Path | str], known: Collection[int], file: Path) -> str:
    """Write the label of each product, in the order of the text files, to a CSV such as Y_test.csv.

    Memory does not grow with the rows. known: as in `match_labels`. Returns the mismatch as there.
    """
    mismatch, rows = Mismatch(), NumberFile(file.with_suffix(".rows"))
    mismatch.add(STRAY, labels.rows[:0])  # counted last, and named first
    with file.open("w", newline="") as csv:
        for chunk in iter_text(texts, ["row"]):
            numbers = chunk["row"].to_numpy(np.int64)
            rows.append(numbers)
            labelled = locate(labels.rows, numbers)[1]
            numbers, missing = numbers[labelled], numbers[~labelled]
            codes = whole_numbers(pd.Series(labels.lookup(numbers), numbers, str, "prdtypecode"))
            mismatch.add(MISSING, missing)
            mismatch.add(BLANK, numbers[codes.isna()])
            mismatch.add(UNKNOWN, numbers[codes.notna() & ~codes.isin(list(known))])
            codes.to_csv(csv, header=not csv.tell())
    products = rows.map_sorted()
    for _, block in blocks(labels.rows):
        mismatch.add(STRAY, block[~locate(products, block)[1]])
    return str(mismatch)
