"""Parquet shards of catalogue rows with their photos' bytes: written batch by batch, hashed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rakuten_tasks.data.schema import SHARD


@dataclass(frozen=True)
class Shard:
    """Parquet file of schema.SHARD. sha256: of its rows and photos, independent of the file's encoding."""

    path: Path
    rows: int
    sha256: str


class ShardWriter:
    """Writer of {prefix}-00000.parquet, {prefix}-00001.parquet ..., each of `rows_per_shard` rows but the last."""

    def __init__(self, folder: Path, prefix: str, rows_per_shard: int) -> None:
        self._folder, self._prefix, self._rows_per_shard = folder, prefix, rows_per_shard
        self._writer: pq.ParquetWriter | None = None
        self._digests: list[str] = []
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()  # of all rows, independent of shard limits

    def write(self, rows: pa.Table) -> None:
        """Add rows of schema.SHARD."""
        while len(rows):
            free_rows = self._rows_per_shard - len(self._digests)
            self._append(rows.slice(0, free_rows))
            rows = rows.slice(free_rows)

    def _append(self, rows: pa.Table) -> None:
        if self._writer is None:
            # photos are compressed already
            compression = {name: "none" if name == "photo" else "zstd" for name in SHARD.names}
            self._writer = pq.ParquetWriter(self._path, SHARD, compression=compression, use_dictionary=False)
        self._writer.write_table(rows)
        self._digests += [hash_product(row, row.pop("photo")) for row in rows.to_pylist()]
        if len(self._digests) == self._rows_per_shard:
            self.close()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._prefix}-{len(self.shards):05d}.parquet"

    def close(self) -> None:
        """Finish the open shard, if any."""
        if self._writer is None:
            return
        self._writer.close()
        content = "".join(self._digests).encode()
        self.shards.append(Shard(self._path, len(self._digests), hashlib.sha256(content).hexdigest()))
        self.content.update(content)
        self._writer, self._digests = None, []


def hash_product(values: Any, photo: bytes | None) -> str:
    """Return the SHA-256 of values that JSON can hold, and of a photo, in hex."""
    return hashlib.sha256(json.dumps(values).encode() + b"\n" + (photo or b"")).hexdigest()


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows of a shard; numbers are Int64 (<NA> where null), photos bytes or None."""
    return pq.read_table(path, columns=columns).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def iter_shards(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield the rows of each shard, one shard in memory at a time."""
    return (read_shard(path, columns) for path in paths)
