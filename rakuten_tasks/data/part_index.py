"""Index of one part of a catalogue: what must be known of all its rows before the first is written, in files."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from rakuten_tasks.data.csv_files import format_rows, read_chunks, require_unique
from rakuten_tasks.data.number_files import NumberFile, blocks, locate, open_map
from rakuten_tasks.data.schema import LABELS, PRODUCTS, CatalogueError


@dataclass(frozen=True)
class PartIndex:
    """Number of rows, the labels of a labelled part, and the productids that occur more than once."""

    rows: int
    labels: LabelIndex | None
    productids: ProductidFilter


def index_part(filesystem: AbstractFileSystem, rows_file: str, labels_file: str | None, folder: Path) -> PartIndex:
    """Read a part's CSV files once, so that a broken one stops a run before any photo is read.

    folder: an empty local one for the index, about 50 bytes a row. Raises CatalogueError as read_chunks does, for a
    file without rows, for a row number that occurs twice, and unless both files number the same rows.
    """
    rows, productids = NumberFile(folder / "rows"), NumberFile(folder / "productids")
    for chunk in read_chunks(filesystem, rows_file, PRODUCTS):
        rows.append(chunk.typed.index)
        productids.append(chunk.typed["productid"].dropna())
    require_unique(len(rows.map()), rows.map_repeated(), rows_file)
    labels = None
    if labels_file is not None:
        labels = LabelIndex(filesystem, labels_file, folder)
        _require_match(rows.map_sorted(), labels.rows, rows_file, labels_file)
    return PartIndex(len(rows.map()), labels, ProductidFilter(productids, folder))


def _require_match(rows: NDArray[np.int64], labels: NDArray[np.int64], rows_file: str, labels_file: str) -> None:
    """Raise CatalogueError unless both ascending columns hold the same numbers."""
    problems = []
    for numbers, others, file, other_file in (
        (rows, labels, rows_file, labels_file),
        (labels, rows, labels_file, rows_file),
    ):
        count, first = 0, np.empty(0, np.int64)
        for _, block in blocks(numbers):
            missing = block[~locate(others, block)[1]]
            count, first = count + len(missing), np.append(first, missing[:3])[:3]
        if count:
            problems.append(f"{count} rows of {file} are not in {other_file} ({format_rows(first, count)})")
    if problems:
        raise CatalogueError(f"labels do not match rows: {'; '.join(problems)}: give each row one label, by row number")


class LabelIndex:
    """Labels by row number, as texts. rows: their numbers in ascending order, a memory map."""

    def __init__(self, filesystem: AbstractFileSystem, path: str, folder: Path) -> None:
        """Read a file of labels. folder: for the index. Raises CatalogueError as index_part does."""
        self._path = path
        rows, ends = NumberFile(folder / "label-rows"), NumberFile(folder / "label-ends")
        with (folder / "label-texts").open("w+b") as file:
            for chunk in read_chunks(filesystem, path, LABELS):
                texts = [text.encode() for text in chunk.raw["prdtypecode"]]
                ends.append(file.tell() + np.cumsum([len(text) for text in texts], dtype=np.int64))
                file.write(b"".join(texts))
                rows.append(chunk.typed.index)
            require_unique(len(rows.map()), rows.map_repeated(), path)
            file.flush()
            # no map can be empty, and all labels may be blank
            self._texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
        self.rows, self._ends = rows.map_sorted(), ends.map()
        self._order = None if rows.ascending else _order(rows.map(), self.rows, folder / "label-order")

    def lookup(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the label of each row, as in the file. Raises CatalogueError for a row that is not in the index."""
        places, is_known = locate(self.rows, rows)
        if not is_known.all():
            raise CatalogueError(
                f"{self._path} has no row {format_rows(rows[~is_known])}: the catalogue changed while it was read, "
                "run again"
            )
        if self._order is not None:
            places = self._order[places]
        starts = np.where(places > 0, self._ends[places - 1], 0)
        spans = zip(starts.tolist(), self._ends[places].tolist(), strict=True)
        return [self._texts[start:end].decode() for start, end in spans]


def _order(numbers: NDArray[np.int64], ascending: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    """Return the position among `numbers` of each of the ascending ones, as a memory map."""
    order = open_map(path, "w+", len(numbers))
    for start, block in blocks(numbers):
        order[locate(ascending, block)[0]] = np.arange(start, start + len(block))
    return order


class ProductidFilter:
    """Filter of productids that came before. Keeps a byte for each that occurs more than once in the file."""

    def __init__(self, productids: NumberFile, folder: Path) -> None:
        self._repeated = productids.map_repeated()
        self._used = open_map(folder / "productids-used", "w+", len(self._repeated), np.bool_)

    def use(self, productids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which productids came before, in this call or an earlier one. (N,)"""
        numbers = np.asarray(productids, np.int64)
        places, is_repeated = locate(self._repeated, numbers)
        again = pd.Index(numbers).duplicated()
        again[is_repeated] |= self._used[places[is_repeated]]
        self._used[places[is_repeated]] = True
        return again
