"""Shards of a catalogue: Parquet files of text and of photos, written batch by batch, hashed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.parquet import open_parquet_file
from numpy.typing import NDArray

from rakuten_tasks.data.schema import PHOTOS, ROWS, TEXT, damage_error
from rakuten_tasks.storage.addresses import open_address

MAX_SHARDS = 500  # of a part: a map task's items, and its literals of 0.3 KB each, stay far below Flyte's limits
TEXT_ROWS, PHOTO_ROWS = 1024, 64  # in a row group, the unit of reading
BLOCK = 4 << 20  # bytes that an open file of a store reads ahead; s3fs alone would hold 50 MB of each
DERIVED = ("title_hash", "photo_hash", "product_hash")  # columns computed from others


@dataclass(frozen=True)
class Shard:
    """Some products: a file of schema.TEXT and one of schema.PHOTOS, row for row.

    sha256: of rows and photos, independent of the files' encoding. A published shard may be in a store: then text and
    photos are addresses.
    """

    text: Path | str
    photos: Path | str
    rows: int
    sha256: str


def shard_rows(rows: int, minimum: int) -> int:
    """Return the number of rows in a shard, at least `minimum`, of which MAX_SHARDS hold `rows`."""
    return max(minimum, -(-rows // MAX_SHARDS))


class ShardWriter:
    """Writer of {prefix}-00000.text.parquet and .photos.parquet, {prefix}-00001 ..., of `rows_per_shard` rows each.

    Row groups have TEXT_ROWS and PHOTO_ROWS rows, but the last of a shard: `iter_products` reads them side by side.
    """

    def __init__(self, folder: Path, prefix: str, rows_per_shard: int) -> None:
        self._folder, self._prefix, self._rows_per_shard = folder, prefix, rows_per_shard
        self._writers: tuple[pq.ParquetWriter, pq.ParquetWriter] | None = None
        self._text: list[pa.Table] = []  # rows that do not fill a row group yet
        self._photos: list[bytes | None] = []
        self._rows, self._digest = 0, hashlib.sha256()  # of the open shard
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()  # of all rows, independent of shard limits

    def write(self, text: pa.Table, photos: Iterable[bytes | None]) -> None:
        """Add rows of schema.ROWS and the photo of each, None for none."""
        start, photos = 0, list(photos)
        while start < len(text):
            # up to the end of a row group or of the shard
            stop = start + min(PHOTO_ROWS - self._rows % PHOTO_ROWS, self._rows_per_shard - self._rows)
            self._append(text.slice(start, stop - start), photos[start:stop])
            start = stop

    def _append(self, text: pa.Table, photos: Sequence[bytes | None]) -> None:
        if self._writers is None:
            text_file, photos_file = self._paths
            # photos are compressed already; with checksums a reader of some pages notices that these were changed
            options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
            text_writer = pq.ParquetWriter(text_file, TEXT, compression="zstd", write_page_checksum=True)
            self._writers = text_writer, pq.ParquetWriter(photos_file, PHOTOS, **options)
        columns = [text[name].to_pylist() for name in ROWS.names if name not in DERIVED]
        hashes = []
        for number, *values, photo in zip(*columns, photos, strict=True):
            digest = hash_product(values, photo)
            hashes.append(int(digest[:16], 16))
            self._digest.update(f"{number} {digest}".encode())
            self.content.update(f"{number} {digest}".encode())
        self._text.append(text.append_column(TEXT.field("product_hash"), pa.array(hashes, pa.uint64())))
        self._photos += photos
        self._rows += len(text)
        if self._rows % PHOTO_ROWS == 0:
            self._flush_photos()
        if self._rows % TEXT_ROWS == 0:
            self._flush_text()
        if self._rows == self._rows_per_shard:
            self.close()

    def _flush_text(self) -> None:
        if self._writers and self._text:
            self._writers[0].write_table(pa.concat_tables(self._text))
            self._text = []

    def _flush_photos(self) -> None:
        if self._writers and self._photos:
            self._writers[1].write_table(pa.table([pa.array(self._photos, pa.binary())], PHOTOS))
            self._photos = []

    @property
    def _paths(self) -> tuple[Path, Path]:
        name = f"{self._prefix}-{len(self.shards):05d}"
        return self._folder / f"{name}.text.parquet", self._folder / f"{name}.photos.parquet"

    def close(self) -> None:
        """Finish the open shard, if any."""
        if self._writers is None:
            return
        self._flush_text()
        self._flush_photos()
        for writer in self._writers:
            writer.close()
        self.shards.append(Shard(*self._paths, self._rows, self._digest.hexdigest()))
        self._writers, self._rows, self._digest = None, 0, hashlib.sha256()


def group_neighbours(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Return groups of neighbours to join, so that at most MAX_SHARDS remain: the smallest, one pair at a time."""
    groups = [[shard] for shard in shards]
    while len(groups) > MAX_SHARDS:
        rows = np.array([sum(shard.rows for shard in group) for group in groups])
        first = int(np.argmin(rows[:-1] + rows[1:]))
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return groups


def join_shards(group: Sequence[Shard], folder: Path, prefix: str) -> Shard:
    """Write one shard with all rows of these."""
    writer = ShardWriter(folder, prefix, sum(shard.rows for shard in group))
    for shard in group:
        for products in iter_products(shard):
            writer.write(pa.Table.from_pandas(products, ROWS, preserve_index=False), products["photo"])
    writer.close()
    return writer.shards[0]


def hash_product(values: Any, photo: bytes | None) -> str:
    """Return the SHA-256 of values that JSON can hold, and of a photo, in hex."""
    return hashlib.sha256(json.dumps(values).encode() + b"\n" + (photo or b"")).hexdigest()


def hash_photo(photo: bytes | None) -> int | None:
    """Return 8 bytes of the photo's SHA-256 as a number; None for no photo."""
    return None if photo is None else int.from_bytes(hashlib.sha256(photo).digest()[:8])


@contextmanager
def open_parquet(file: Path | str, columns: Sequence[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a local file, or one at an address: of that, only the columns are transferred.

    Raises CatalogueError for a file that is gone, and for one whose pages that are read were changed.
    """
    try:
        source: Any = file
        if isinstance(file, str):
            filesystem, path = open_address(file)
            if columns is None:
                source = filesystem.open(path, "rb", block_size=BLOCK)
            else:
                source = open_parquet_file(path, fs=filesystem, columns=list(columns), engine="pyarrow")
        with pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            yield parquet
    except FileNotFoundError as error:
        raise damage_error(file, "is gone") from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and "CRC checksum" not in str(error):  # of the disk or the store
            raise
        raise damage_error(file, f"is damaged ({error})") from error


def read_text(file: Path | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return columns of schema.TEXT; numbers are nullable (<NA> where null)."""
    with open_parquet(file, columns) as parquet:
        return _to_pandas(parquet.read(columns))


def iter_text(files: Sequence[Path | str], columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield rows of schema.TEXT, at most TEXT_ROWS at a time."""
    for file in files:
        with open_parquet(file, columns) as parquet:
            for group in range(parquet.num_row_groups):
                yield _to_pandas(parquet.read_row_group(group, columns))


def iter_products(shard: Shard, selected: Collection[int] | pd.Series | None = None) -> Iterator[pd.DataFrame]:
    """Yield rows of schema.TEXT with their photos, bytes or None, at most PHOTO_ROWS at a time.

    selected: numbers of the rows to yield (column `row`), None for all. Photos beside which no row is selected are not
    read.
    """
    with open_parquet(shard.photos) as photos:
        group = 0
        for text in iter_text([shard.text]):
            chosen = np.ones(len(text), bool) if selected is None else text["row"].isin(selected).to_numpy()
            for start in range(0, len(text), PHOTO_ROWS):
                rows = chosen[start : start + PHOTO_ROWS]
                if rows.any():
                    products = text.iloc[start : start + PHOTO_ROWS]
                    photo = photos.read_row_group(group)["photo"].to_pylist()
                    yield products.assign(photo=photo)[rows].reset_index(drop=True)
                group += 1


def iter_positions(shards: Sequence[Shard], positions: NDArray[np.int64]) -> Iterator[pd.DataFrame]:
    """Yield the rows at these positions over all shards, ascending, with their photos. positions: in any order."""
    start = 0
    for shard in shards:
        inside = positions[(positions >= start) & (positions < start + shard.rows)] - start
        if len(inside):
            yield from iter_products(shard, read_text(shard.text, ["row"])["row"].iloc[inside])
        start += shard.rows


def read_products(shard: Shard) -> pd.DataFrame:
    """Return all rows of a shard with their photos."""
    return pd.concat(iter_products(shard), ignore_index=True)


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}.get)
