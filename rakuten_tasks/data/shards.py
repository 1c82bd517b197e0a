"""Parquet shards of catalogue rows with their photos' bytes: written a batch at a time, hashed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rakuten_tasks.data.schema import SHARD


@dataclass(frozen=True)
class Shard:
    """One Parquet file (schema.SHARD). sha256: of its rows and photos, whatever the file's encoding."""

    path: Path
    rows: int
    sha256: str


class ShardWriter:
    """Writes rows to {prefix}-00000.parquet, {prefix}-00001.parquet ..., each of `rows_per_shard` rows but the last."""

    def __init__(self, folder: Path, prefix: str, rows_per_shard: int) -> None:
        self._folder, self._prefix, self._rows_per_shard = folder, prefix, rows_per_shard
        self._writer: pq.ParquetWriter | None = None
        self._digests: list[bytes] = []
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()  # of all rows, wherever one shard ends and the next begins

    def write(self, rows: pa.Table) -> None:
        """Add rows of schema.SHARD."""
        while len(rows):
            room = self._rows_per_shard - len(self._digests)
            self._append(rows.slice(0, room))
            rows = rows.slice(room)

    def _append(self, rows: pa.Table) -> None:
        if self._writer is None:
            # photos are compressed already
            compression = {name: "none" if name == "photo" else "zstd" for name in SHARD.names}
            self._writer = pq.ParquetWriter(self._path, SHARD, compression=compression, use_dictionary=False)
        self._writer.write_table(rows)
        self._digests += map(_digest, rows.to_pylist())
        if len(self._digests) == self._rows_per_shard:
            self.close()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._prefix}-{len(self.shards):05d}.parquet"

    def close(self) -> None:
        """Finish the shard that is being written, if any."""
        if self._writer is None:
            return
        self._writer.close()
        content = b"".join(self._digests)
        self.shards.append(Shard(self._path, len(self._digests), hashlib.sha256(content).hexdigest()))
        self.content.update(content)
        self._writer, self._digests = None, []


def _digest(row: dict) -> bytes:
    photo = row.pop("photo") or b""
    return hashlib.sha256(json.dumps(row).encode() + b"\n" + photo).digest()


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a shard; numbers are Int64 (<NA> where null), photos bytes or None."""
    return pq.read_table(path, columns=columns).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def iter_shards(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Shard after shard, one in memory at a time."""
    return (read_shard(path, columns) for path in paths)
