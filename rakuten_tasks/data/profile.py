"""Statistics of a catalogue's shards: lengths of all rows, languages and photos of a seeded sample."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rakuten_tasks.data.schema import QUARANTINE
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.preprocessing.language import language
from rakuten_tasks.preprocessing.photos import FORMATS
from rakuten_tasks.preprocessing.text import clean


@dataclass(frozen=True)
class PhotoInfo:
    """One photo file: pixels as its header says, bytes."""

    width: int
    height: int
    size: int


@dataclass(frozen=True)
class PhotoExample:
    """One product with its photo's bytes. code: None where it is to be predicted."""

    title: str
    code: int | None
    photo: bytes


@dataclass(frozen=True)
class Profile:
    """Of the kept rows, all parts together."""

    title_lengths: NDArray  # (N,) characters as written
    description_lengths: NDArray  # (N,); 0 where there is none
    sampled: int  # products that languages and photos were measured on
    languages: dict[str, int]  # of the sampled, the most frequent first; ISO 639, or UNDETERMINED
    photos: list[PhotoInfo]  # of the sampled that have one
    pictured: list[PhotoExample]  # some that have one


def profile(shards: Sequence[Shard], seed: int, sample: int, pictures: int) -> Profile:
    """Read all texts, a shard at a time, and the photos of some products, 64 products at a time.

    sample: how many products languages and photos are measured on; pictures: how many are kept with their photos.
    Same shards and seed: same profile.
    """
    columns = [_lengths(shard.path) for shard in shards]
    titles, descriptions, has_photo = np.concatenate([np.zeros((3, 0), int), *columns], axis=1)
    random = np.random.default_rng(seed)
    chosen = set(random.permutation(len(titles))[:sample].tolist())
    shown = set(random.permutation(np.flatnonzero(has_photo))[:pictures].tolist())
    languages: Counter[str] = Counter()
    photos, pictured = [], []
    for position, row in _rows_at(shards, chosen | shown):
        if position in chosen:
            languages[language(clean(f"{row['designation']} {row['description']}"))] += 1
        if position in chosen and row["photo"] is not None:
            photos.append(photo_info(row["photo"]))
        if position in shown:
            pictured.append(PhotoExample(row["designation"], row["prdtypecode"], row["photo"]))
    return Profile(titles, descriptions, len(chosen), dict(languages.most_common()), photos, pictured)


def _lengths(path: Path) -> NDArray:
    """(3, rows): characters of title and description, and whether there is a photo."""
    rows = pq.read_table(path, columns=["designation", "description", "photo_status"])
    lengths = [pc.utf8_length(rows[name]).to_numpy() for name in ("designation", "description")]
    return np.stack([*lengths, pc.equal(rows["photo_status"], "ok").to_numpy()]).astype(int)


def _rows_at(shards: Sequence[Shard], positions: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by their position, counted over all shards: only row groups that hold one are read."""
    start = 0
    for shard in shards:
        with pq.ParquetFile(shard.path) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                inside = [at for at in range(rows) if start + at in positions]
                if inside:
                    found = file.read_row_group(group, ["designation", "description", "prdtypecode", "photo"])
                    for at, row in zip(inside, found.take(inside).to_pylist(), strict=True):
                        yield start + at, row
                start += rows


def photo_info(photo: bytes) -> PhotoInfo:
    """From the header alone. photo: a file that ingest found sound."""
    with warnings.catch_warnings():
        # Pillow warns of odd files; they can be decoded
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with Image.open(BytesIO(photo), formats=FORMATS) as image:
            return PhotoInfo(image.width, image.height, len(photo))


def quarantined(quarantine: Path, examples: int) -> pd.DataFrame:
    """The first `examples` rows of each reason and part, as schema.QUARANTINE."""
    kept, seen = [QUARANTINE.empty_table().to_pandas()], Counter[tuple[str, str]]()
    with pq.ParquetFile(quarantine) as file:
        for batch in file.iter_batches(batch_size=1000):
            rows = batch.to_pandas()
            key = ["part", "reason"]
            rank = rows.groupby(key).cumcount() + [seen[pair] for pair in rows[key].itertuples(index=False, name=None)]
            seen.update(rows[key].itertuples(index=False, name=None))
            kept.append(rows[rank < examples])
    return pd.concat([part for part in kept if len(part)] or kept[:1], ignore_index=True)
