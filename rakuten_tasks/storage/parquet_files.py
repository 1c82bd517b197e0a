"""Parquet files that are written and read in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1024  # least number of rows in a row group, but the last


class RowGroupWriter:
    """Writer of row groups of at least `rows` rows, but the last; one of them is in memory. A context manager."""

    def __init__(self, file: Path | IO[bytes], schema: pa.Schema, rows: int = ROWS) -> None:
        self._writer, self._rows = pq.ParquetWriter(file, schema), rows
        self._tables: list[pa.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows of the schema."""
        if len(table):
            self._tables.append(table)
        if sum(map(len, self._tables)) >= self._rows:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables = []


def write_row_groups(file: Path | IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], rows: int = ROWS) -> None:
    """Write tables of this schema one after the other, as RowGroupWriter does."""
    with RowGroupWriter(file, schema, rows) as writer:
        for table in tables:
            writer.write(table)


def iter_batches(file: Path | IO[bytes], rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the columns of at most `rows` rows at a time; one row group is in memory."""
    # with pre_buffer, everything that was read stays in memory until the end
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        yield from parquet.iter_batches(rows, columns=columns)
