"""Readers of the catalogue's CSV files, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pandas as pd
import pandera.pandas as pandera
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from rakuten_tasks.data.csv_reader import read_tables
from rakuten_tasks.data.schema import CLASSES, LABELS, CatalogueError, validate_schema, whole_numbers
from rakuten_tasks.storage.addresses import open_to_read
from rakuten_tasks.storage.local_files import UnreadableFileError

CHUNK = 4096  # rows of a CSV in memory at once


@dataclass(frozen=True)
class Chunk:
    """Rows of a CSV, indexed by row number. raw: texts as in the file; typed: the schema's columns and types."""

    raw: pd.DataFrame
    typed: pd.DataFrame


RowFilter = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # (n,) row numbers -> (n,) whether each is selected


def all_rows(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Select every row."""
    return np.ones(len(rows), np.bool_)


def open_table(filesystem: AbstractFileSystem, path: str) -> BinaryIO:
    """Open the file of a table. Raises FileNotFoundError, and CatalogueError for a folder, a pipe or no permission."""
    try:
        return open_to_read(filesystem, path)
    except UnreadableFileError as error:
        raise CatalogueError(f"{path}: no ordinary file that may be read: put the table there") from error


def read_chunks(filesystem: AbstractFileSystem, path: str, schema: pandera.DataFrameSchema) -> Iterator[Chunk]:
    """Yield the rows of a CSV, CHUNK at a time. Raises CatalogueError if it cannot be read or breaks the schema."""
    with open_table(filesystem, path) as file:
        yield from _type_tables(file, path, schema)


def _type_tables(file: Iterable[bytes], path: str, schema: pandera.DataFrameSchema) -> Iterator[Chunk]:
    for table in read_tables(file, path, CHUNK):
        numbers, columns = table.iloc[:, 0], table.iloc[:, 1:]
        if numbers.name in schema.columns:
            raise CatalogueError(
                f"{path}: the first column is {numbers.name}: put the number of each row before it, as "
                "pandas.DataFrame.to_csv does with index=True"
            )
        if columns.columns.empty:
            raise CatalogueError(
                f"{path}: the first line, {table.columns[0][:60]!r}, names one column: put the catalogue's table there "
                "(a web page or a pointer of git-lfs is none)"
            )
        typed = validate_schema(columns, schema, path)
        rows = whole_numbers(numbers)
        if rows.isna().any():
            line = rows.index[rows.isna()][0]
            raise CatalogueError(
                f"{path}, line {line}: the first column must number the rows, and holds {numbers[line]!r}: "
                "number each row, as pandas.DataFrame.to_csv does, or delete this one"
            )
        index = pd.Index(rows.astype("int64"), name="row")
        yield Chunk(columns.set_axis(index), typed.set_axis(index))


def format_rows(rows: pd.Index | NDArray[np.int64], count: int | None = None) -> str:
    """Format row numbers: the first three, and how many more. count: of all, where `rows` holds but the first."""
    count = count or len(rows)
    return ", ".join(map(str, rows[:3])) + (f" and {count - 3} more" if count > 3 else "")


def read_labels(filesystem: AbstractFileSystem, path: str, select: RowFilter = all_rows) -> pd.Series:
    """Return the codes of the selected rows of a file of labels: Int64 by row, <NA> where it is no whole number.

    Raises CatalogueError as read_chunks does, for a file without rows, and for a selected row that occurs twice.
    """
    with open_table(filesystem, path) as file:
        return parse_labels(file, path, select)


def parse_labels(file: Iterable[bytes], path: str, select: RowFilter = all_rows) -> pd.Series:
    """Return codes of an open file, as read_labels does. path: for messages."""
    parts, count = [], 0
    for chunk in _type_tables(file, path, LABELS):
        codes = chunk.typed["prdtypecode"]
        parts.append(codes[select(codes.index.to_numpy())])
        count += len(codes)
    codes = pd.concat(parts)
    require_unique(count, codes.index[codes.index.duplicated()].unique(), path)
    return codes


def require_unique(count: int, repeated: pd.Index | NDArray[np.int64], path: str) -> None:
    """Raise CatalogueError for a file of no rows, and for row numbers that occur more than once."""
    if not count:
        raise CatalogueError(f"{path}: no rows below the header line: put the catalogue's rows there")
    if len(repeated):
        raise CatalogueError(f"{path}: row number {format_rows(repeated)} occurs more than once: number each row once")


def read_class_names(filesystem: AbstractFileSystem, path: str) -> dict[int, str]:
    """Return code -> name for people, from a file with the columns prdtypecode and name."""
    names = pd.concat([chunk.typed["name"] for chunk in read_chunks(filesystem, path, CLASSES)])
    if names.index.has_duplicates:
        codes = format_rows(names.index[names.index.duplicated()].unique())
        raise CatalogueError(f"{path}: class {codes} occurs more than once: name each class once")
    return {int(code): name for code, name in names.items()}
