"""Sticky train, validation and test assignment by normalised title: same title, same split, never changed."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.config import SplitConfig
from rakuten_tasks.preprocessing.text import clean

SPLITS = ("train", "validation", "blending", "test")
TRAIN, VALIDATION, BLENDING, TEST = range(4)
# a class with few titles needs training first, then a test
FILL_ORDER = (TRAIN, TEST, BLENDING, VALIDATION)
NOT_A_WORD = re.compile(r"[\W_]+")


def normalise_title(title: str) -> str:
    """What makes two titles the same: cleaned, without case, punctuation as one space; "!!" is kept as it is."""
    cleaned = clean(title)
    return NOT_A_WORD.sub(" ", cleaned.casefold()).strip() or cleaned


def title_hash(title: str) -> str:
    """16 hex digits of the normalised title. Of 85,000 titles two share one with a chance of 2 in 10^10."""
    return hashlib.blake2b(normalise_title(title).encode(), digest_size=8).hexdigest()


class Ledger:
    """Title hash -> split. Never changes: `extended` and `merged` return a new one that keeps every entry."""

    def __init__(self, splits: Mapping[str, int]) -> None:
        """splits: by title hash, a position in SPLITS."""
        self._splits = dict(splits)

    @classmethod
    def empty(cls) -> Ledger:
        """A ledger that has seen no title."""
        return cls({})

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """Read what `save` wrote."""
        table = pd.read_parquet(path, columns=["title_hash", "split"])
        return cls(dict(zip(table["title_hash"], table["split"].map(SPLITS.index), strict=True)))

    def save(self, path: Path) -> None:
        """Write `table` as Parquet."""
        self.table().to_parquet(path, index=False)

    def table(self) -> pd.DataFrame:
        """title_hash, split (its name), ordered by hash."""
        hashes = sorted(self._splits)
        names = [SPLITS[self._splits[known]] for known in hashes]
        return pd.DataFrame({"title_hash": hashes, "split": names}, dtype=str)

    def __len__(self) -> int:
        return len(self._splits)

    def lookup(self, titles: Iterable[str]) -> NDArray[np.uint8]:
        """The split of each title, a position in SPLITS. (N,). Raises KeyError for a title that was never placed."""
        titles = list(titles)
        found = [self._splits.get(title_hash(title)) for title in titles]
        if unseen := [title for title, split in zip(titles, found, strict=True) if split is None]:
            raise KeyError(
                f"{len(unseen)} of {len(titles)} titles are not in the ledger, such as {unseen[:3]}: "
                "place them with Ledger.extended first"
            )
        return np.array(found, dtype=np.uint8)

    def merged(self, other: Ledger) -> Ledger:
        """Both ledgers' titles; where they differ, this one, the older, is right."""
        return Ledger(other._splits | self._splits)

    def differing(self, other: Ledger) -> int:
        """Titles that both have placed, on different splits."""
        return sum(other._splits.get(title, split) != split for title, split in self._splits.items())

    def extended(self, titles: Sequence[str], codes: Sequence[int], config: SplitConfig) -> Ledger:
        """Place the titles that this ledger has not seen. titles[i] has the class codes[i]; (N,), (N,).

        The same titles and codes give the same ledger in any order. Classes of four titles and more come first, the
        rarest of them first, then smaller ones; a class's titles in the order of their hashes. A title goes to a split
        that has none of its class yet, in the order train, test, blending, validation; once each has one, to the
        split that is furthest below its share of the class's titles. So a class of one title is in training only, of
        two in train and test, of three in all but validation, of four and more on every split.

        A title that several classes share is placed once, where most of them have none, and moved again if a class of
        four titles has a gap that this closes without opening another. So every class that has four titles of its own
        is on every split. A class made of shared titles can still miss one: not every such puzzle has a solution
        (of five titles, let each four be a class), and titles placed in earlier runs stay.
        """
        classes_of: defaultdict[str, set[int]] = defaultdict(set)
        for title, code in zip(titles, codes, strict=True):
            classes_of[title_hash(title)].add(int(code))
        shares = (0.0, config.validation, config.blending, config.test)
        shares = (1 - sum(shares), *shares[1:])
        return Ledger(self._splits | _SplitAssigner(classes_of, self._splits, shares).placed())


def require_every_split(splits: NDArray[np.uint8], codes: Sequence[int]) -> None:
    """Raises ValueError unless each split has a row and training has two classes. (N,) positions in SPLITS, (N,)"""
    empty = [name for split, name in enumerate(SPLITS) if split not in splits]
    trained_on = len({code for code, split in zip(codes, splits, strict=True) if split == TRAIN})
    if empty or trained_on < 2:
        lack = f"no product on {', '.join(empty)}" if empty else f"{trained_on} class in training"
        raise ValueError(
            f"{lack}: {len(codes)} labelled products of {len(set(codes))} classes are too few to split; "
            "add products until two classes have four different titles each"
        )


def assign_folds(titles: Sequence[str], codes: Sequence[int], folds: int) -> NDArray[np.int64]:
    """0 to folds - 1 for each row, for fits out of fold: rows that share a title share a fold. (N,), (N,) -> (N,)

    A class's titles go to the folds in turn, so that a class of two titles is in two folds. The same titles and codes
    give the same folds in any order.
    """
    first: dict[str, int] = {}
    hashes = [title_hash(title) for title in titles]
    for key, code in zip(hashes, codes, strict=True):
        first[key] = min(int(code), first.get(key, int(code)))
    ordered = sorted(first, key=lambda key: (first[key], key))
    fold = {key: place % folds for place, key in enumerate(ordered)}
    return np.array([fold[key] for key in hashes], dtype=np.int64)


class _SplitAssigner:
    """Splits for the unseen titles of a catalogue; counts[code][split] follows each move."""

    def __init__(self, classes_of: Mapping[str, set[int]], known: Mapping[str, int], shares: Sequence[float]) -> None:
        self._classes_of, self._shares = classes_of, shares
        self._titles: defaultdict[int, list[str]] = defaultdict(list)
        for title in sorted(classes_of):
            for code in classes_of[title]:
                self._titles[code].append(title)
        self._counts = {code: [0] * len(SPLITS) for code in sorted(self._titles)}
        for title in classes_of.keys() & known.keys():
            self._count(title, known[title], 1)
        self._known, self._new = known, dict[str, int]()

    def placed(self) -> dict[str, int]:
        """Title hash -> split, of the unseen titles."""
        for code in sorted(self._titles, key=lambda code: (self._is_small(code), len(self._titles[code]), code)):
            for title in self._titles[code]:
                if title not in self._known and title not in self._new:
                    self._put(title, self._best_split(title))
        while self._close_a_gap():
            pass
        return self._new

    def _is_small(self, code: int) -> bool:
        return len(self._titles[code]) < len(SPLITS)

    def _best_split(self, title: str) -> int:
        counts = [self._counts[code] for code in self._classes_of[title]]
        missing = [sum(count[split] == 0 for count in counts) for split in range(len(SPLITS))]
        if max(missing):
            return max(FILL_ORDER, key=missing.__getitem__)
        wanted = sum(sum(count) + 1 for count in counts)
        behind = [share * wanted - sum(count[split] for count in counts) for split, share in enumerate(self._shares)]
        return max(FILL_ORDER, key=behind.__getitem__)

    def _put(self, title: str, split: int) -> None:
        if title in self._new:
            self._count(title, self._new[title], -1)
        self._new[title] = split
        self._count(title, split, 1)

    def _count(self, title: str, split: int, change: int) -> None:
        for code in self._classes_of[title]:
            self._counts[code][split] += change

    def _close_a_gap(self) -> bool:
        """Move one new title so that a class of four titles or more loses a gap and none gets one, if that can be."""
        for code, counts in self._counts.items():
            gaps = [split for split in FILL_ORDER if counts[split] == 0]
            if not gaps or self._is_small(code):
                continue
            if (title := next(filter(self._is_spare, self._titles[code]), None)) is not None:
                self._put(title, gaps[0])
                return True
        return False

    def _is_spare(self, title: str) -> bool:
        if title not in self._new:
            return False
        codes = [code for code in self._classes_of[title] if not self._is_small(code)]
        return all(self._counts[code][self._new[title]] > 1 for code in codes)
