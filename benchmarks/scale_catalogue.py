"""Made-up catalogues of any size, written as shards by numpy and pyarrow: words by Zipf's law, no photos."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rakuten_tasks.data.schema import PHOTOS, TEXT
from rakuten_tasks.data.shards import PHOTO_ROWS, TEXT_ROWS, Shard, shard_rows
from rakuten_tasks.storage.parquet_files import write_row_groups

CODES = np.arange(1, 28, dtype=np.int64) * 40  # 27 classes, of 17 % of the rows down to 0.9 %
SHARES = 1 / (np.arange(len(CODES)) + 1.5)
TITLE, DESCRIPTION = 8, 45  # words; two thirds of the products have a description
REPEATED = 0.05  # of the products have the title of another one
NUMBERS = 0.1  # of the words are numbers
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "li", "ma", "ne", "po", "ru", "sa", "té", "vi", "xo", "zy", "chan")


def vocabulary(rows: int) -> pa.Array:
    """Return the words of a catalogue with so many rows: their number grows by Heaps' law."""
    numbers = range(int(200 * rows**0.5))
    return pa.array(["".join(SYLLABLES[int(digit, 16)] for digit in f"{number:03x}") for number in numbers])


class MadeUpRows:
    """Rows of a catalogue with `rows` labelled products. Any part of them is the same, whichever is made first."""

    def __init__(self, rows: int, part: str = "labelled") -> None:
        self.words, self.part = vocabulary(rows), part
        self._salt = 0 if part == "labelled" else 2**62

    def table(self, first: int, count: int) -> pa.Table:
        """Return schema.TEXT of rows [first, first + count)."""
        random = np.random.default_rng([first, count, self._salt])
        rows = np.arange(first, first + count)
        classes = random.choice(len(CODES), count, p=SHARES / SHARES.sum())
        titles = self._texts(random, classes, np.full(count, TITLE), rows)
        repeated = np.flatnonzero(random.random(count) < REPEATED)  # they have the title and class of the first row
        source = np.arange(count)
        source[repeated] = repeated // 10 * 10
        title_hashes = _mix(rows[source] + self._salt)
        lengths = np.where(random.random(count) < 2 / 3, random.integers(1, 2 * DESCRIPTION, count), 0)
        labelled = self.part == "labelled"
        columns = {
            "row": rows,
            "productid": rows + 10**9 + self._salt // 2**40,
            "imageid": pa.nulls(count, pa.int64()),
            "designation": titles.take(pa.array(source)),
            "description": self._texts(random, classes, lengths, None),
            "prdtypecode": CODES[classes[source]] if labelled else pa.nulls(count, pa.int64()),
            "photo_status": ["none"] * count,
            "issue": pa.nulls(count, pa.string()),
            "title_hash": title_hashes,
            "photo_hash": pa.nulls(count, pa.uint64()),
            "product_hash": _mix(rows + self._salt + 2**61),
        }
        return pa.table({name: columns[name] for name in TEXT.names}, TEXT)

    def _texts(
        self, random: np.random.Generator, classes: NDArray, lengths: NDArray, numbers: NDArray | None
    ) -> pa.Array:
        """Return a text of so many words for each row, and of the number of the row, where texts must differ."""
        total, size = int(lengths.sum()), len(self.words)
        ranks = (size ** random.random(total)).astype(np.int64) - 1  # Zipf: probability 1 / rank
        # a third of the words are those of the class: the words of other classes, moved by a prime for each class
        moved = (ranks + 7919 * np.repeat(classes + 1, lengths)) % size
        words = self.words.take(pa.array(np.where(random.random(total) < 1 / 3, moved, ranks)))
        digits = pc.cast(pa.array(random.integers(0, 10_000, total)), pa.string())
        words = pc.if_else(pa.array(random.random(total) < NUMBERS), digits, words)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        texts = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words), " ")
        if numbers is None:
            return texts
        return pc.binary_join_element_wise(texts, pc.cast(pa.array(numbers), pa.string()), " ")


def write_shards(folder: Path, rows: int, part: str, first: int = 0, total: int = 0) -> list[Shard]:
    """Write rows [first, first + rows) of a catalogue of `total`, or of `rows`, as an ingest does."""
    folder.mkdir(parents=True, exist_ok=True)
    made_up, size = MadeUpRows(total or rows, part), shard_rows(rows, 1000)
    shards: list[Shard] = []
    for start in range(first, first + rows, size):
        count = min(size, first + rows - start)
        name = f"{part}-{len(shards):05d}"
        text, photos = folder / f"{name}.text.parquet", folder / f"{name}.photos.parquet"
        table = made_up.table(start, count)
        pq.write_table(table, text, compression="zstd", row_group_size=TEXT_ROWS)
        parts = (
            pa.table([pa.nulls(min(PHOTO_ROWS, count - at), pa.binary())], PHOTOS) for at in range(0, count, PHOTO_ROWS)
        )
        write_row_groups(photos, PHOTOS, parts, PHOTO_ROWS)
        digest = hashlib.sha256(f"{part} {start} {count} {total or rows}".encode()).hexdigest()
        shards.append(Shard(text, photos, count, digest))
    return shards


def write_csv(folder: Path, rows: int) -> None:
    """Write the labelled rows in the challenge's layout, without photos."""
    folder.mkdir(parents=True, exist_ok=True)
    made_up = MadeUpRows(rows)
    for start in range(0, rows, 10_000):
        table = made_up.table(start, min(10_000, rows - start)).to_pandas().set_index("row").rename_axis(None)
        columns = {"X_train_update.csv": ["designation", "description", "productid", "imageid"]}
        for name, names in (columns | {"Y_train_CVw08PX.csv": ["prdtypecode"]}).items():
            table[names].astype({n: "Int64" for n in names if n.endswith(("id", "code"))}).to_csv(
                folder / name, mode="a", header=start == 0
            )


def random_features(rows: NDArray, labels: NDArray, array: str, width: int) -> dict[str, NDArray]:
    """Return made-up features, which depend on the class. (N,), (N,) -> row, and the array: (N, width) fp16"""
    centres = np.random.default_rng(0).standard_normal((int(labels.max()) + 1, width), dtype=np.float32)
    noise = np.random.default_rng(int(rows[0])).standard_normal((len(rows), width), dtype=np.float32)
    return {"row": rows.astype(np.int64), array: (0.3 * centres[labels] + noise).astype(np.float16)}


def _mix(numbers: NDArray) -> NDArray[np.uint64]:
    """Return well distributed numbers, different for different ones (splitmix64)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
