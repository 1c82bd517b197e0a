"""Parquet files that are written in parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1024  # least number of rows in a row group, but the last


def write_row_groups(file: Path | IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], rows: int = ROWS) -> None:
    """Write tables of this schema one after the other, as row groups of at least `rows`, of which one is in memory."""
    with pq.ParquetWriter(file, schema) as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= rows:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
