from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rakuten_tasks.storage.parquet_files import iter_batches, write_row_groups


def test_small_tables_are_joined_to_row_groups_and_keep_their_order(tmp_path: Path) -> None:
    tables = [pa.table({"row": pa.array(range(start, start + 4))}) for start in range(0, 20, 4)]
    written: list[int] = []  # the first rows of the tables that were asked for when a row group was written
    path = tmp_path / "rows.parquet"
    write_row_groups(path, tables[0].schema, (written.append(t["row"][0].as_py()) or t for t in tables), rows=8)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [8, 8, 4]
    assert file.read()["row"].to_pylist() == list(range(20))


def test_without_tables_the_file_has_columns_and_no_rows(tmp_path: Path) -> None:
    schema = pa.schema([("row", pa.int64())])
    write_row_groups(tmp_path / "empty.parquet", schema, [])
    assert pq.read_table(tmp_path / "empty.parquet") == schema.empty_table()


def test_reading_in_batches_holds_no_more_than_a_row_group(tmp_path: Path) -> None:
    path, random = tmp_path / "rows.parquet", np.random.default_rng(0)
    tables = [pa.table({"noise": random.random(100_000), "unread": random.random(100_000)}) for _ in range(20)]
    write_row_groups(path, tables[0].schema, tables, rows=100_000)
    tracemalloc.start()
    with path.open("rb") as file:  # as of a remote store, whose bytes Python holds
        rows = sum(batch.num_rows for batch in iter_batches(file, 50_000, ["noise"]))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 2_000_000
    assert held < 4 * tables[0]["noise"].nbytes
