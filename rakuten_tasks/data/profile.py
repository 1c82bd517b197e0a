"""Statistics of a catalogue's shards: lengths of all rows, languages and photos of a seeded sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.schema import QUARANTINE
from rakuten_tasks.data.shards import Shard, iter_positions, iter_text
from rakuten_tasks.preprocessing.language import language
from rakuten_tasks.preprocessing.photo_format import open_photo
from rakuten_tasks.preprocessing.text import clean
from rakuten_tasks.storage.parquet_files import iter_batches


@dataclass(frozen=True)
class PhotoInfo:
    """Size of a photo file. width, height: pixels, from its header; size: bytes."""

    width: int
    height: int
    size: int


@dataclass(frozen=True)
class PhotoExample:
    """Product with its photo's bytes. code: None for an unlabelled product."""

    title: str
    code: int | None
    photo: bytes


@dataclass(frozen=True)
class Profile:
    """Statistics of all kept rows, labelled or not."""

    title_lengths: Mapping[int, int]  # number of products by characters, markup included; ascending
    description_lengths: Mapping[int, int]  # 0 for no description
    sampled: int  # number of products in the sample
    languages: dict[str, int]  # products of the sample by ISO 639 code, or UNDETERMINED; most frequent first
    photos: list[PhotoInfo]  # of the sample
    pictured: list[PhotoExample]  # some products with photos


class RandomSample:
    """Positions of a random sample of at most `size` products: those with the smallest of random numbers."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._random = size, np.random.default_rng(seed)
        self._keys, self._positions = np.empty(0), np.empty(0, np.int64)

    def add(self, positions: NDArray[np.int64]) -> None:
        """Add positions, of which each has the same chance as those before."""
        keys = np.concatenate([self._keys, self._random.random(len(positions))])
        smallest = np.argsort(keys)[: self._size]
        self._keys, self._positions = keys[smallest], np.concatenate([self._positions, positions])[smallest]

    @property
    def positions(self) -> set[int]:
        """Positions of the sample."""
        return set(self._positions.tolist())


def profile(shards: Sequence[Shard], seed: int, sample: int, pictures: int) -> Profile:
    """Measure all texts, a row group at a time, and languages and photos of a random sample.

    sample: number of products in the sample; pictures: number of examples with photos. The same shards and seed give
    the same profile.
    """
    lengths: dict[str, Counter[int]] = {"designation": Counter(), "description": Counter()}
    products, with_photo = RandomSample(sample, seed), RandomSample(pictures, seed)
    start = 0
    for rows in iter_text([shard.text for shard in shards], [*lengths, "photo_status"]):
        for name, counts in lengths.items():
            counts.update(rows[name].str.len().value_counts().to_dict())
        products.add(start + np.arange(len(rows)))
        with_photo.add(start + np.flatnonzero(rows["photo_status"] == "ok"))
        start += len(rows)
    chosen, shown = products.positions, with_photo.positions
    languages: Counter[str] = Counter()
    photos, pictured = [], []
    positions = sorted(chosen | shown)
    rows = (row for part in iter_positions(shards, np.array(positions, np.int64)) for row in part.to_dict("records"))
    for position, row in zip(positions, rows, strict=True):
        if position in chosen:
            languages[language(clean(f"{row['designation']} {row['description']}"))] += 1
        if position in chosen and row["photo"] is not None:
            with open_photo(row["photo"]) as image:
                photos.append(PhotoInfo(image.width, image.height, len(row["photo"])))
        if position in shown:
            pictured.append(PhotoExample(row["designation"], row["prdtypecode"], row["photo"]))
    titles, descriptions = (dict(sorted(counts.items())) for counts in lengths.values())
    return Profile(titles, descriptions, len(chosen), dict(languages.most_common()), photos, pictured)


def quarantined(quarantine: Path, examples: int) -> pd.DataFrame:
    """Return the first `examples` rows of each reason and part, as schema.QUARANTINE."""
    parts, counts = [QUARANTINE.empty_table().to_pandas()], Counter[tuple[str, str]]()
    for batch in iter_batches(quarantine, 1000):
        rows = batch.to_pandas()
        key = ["part", "reason"]
        rank = rows.groupby(key).cumcount() + [counts[pair] for pair in rows[key].itertuples(index=False, name=None)]
        counts.update(rows[key].itertuples(index=False, name=None))
        parts.append(rows[rank < examples])
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
