"""Sticky train, validation and test assignment by normalised title: same title, same split, never changed."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
FOLDS = 4  # of the titles outside the test split: out of fold, a member is fitted on three quarters each time
NOT_A_WORD = re.compile(r"[\W_]+")


def normalise_title(title: str) -> str:
    """Return the title cleaned, casefolded, with punctuation as one space; a title of punctuation alone stays."""
    cleaned = clean(title)
    return NOT_A_WORD.sub(" ", cleaned.casefold()).strip() or cleaned


def title_hash(title: str) -> str:
    """Return 16 hex digits of the normalised title. The chance that two of 85,000 titles share one is 2 in 10^10."""
    return hashlib.blake2b(normalise_title(title).encode(), digest_size=8).hexdigest()


def hash_titles(titles: Iterable[str]) -> NDArray[np.uint64]:
    """Return `title_hash` of each title as a number. (N,)"""
    return np.array([int(title_hash(title), 16) for title in titles], dtype=np.uint64)


class TitleSplits:
    """Title hash -> split. Never changes: `extended` and `merged` return a new one that keeps every entry."""

    def __init__(self, splits: Mapping[str, int]) -> None:
        """splits: by title hash, a position in SPLITS."""
        self._splits = dict(splits)

    @classmethod
    def empty(cls) -> TitleSplits:
        """Return the splits of no title."""
        return cls({})

    @classmethod
    def load(cls, path: Path) -> TitleSplits:
        """Read what `save` wrote."""
        table = pd.read_parquet(path, columns=["title_hash", "split"])
        return cls(dict(zip(table["title_hash"], table["split"].map(SPLITS.index), strict=True)))

    def save(self, path: Path) -> None:
        """Write `table` as Parquet."""
        self.table().to_parquet(path, index=False)

    def table(self) -> pd.DataFrame:
        """Return title_hash and split (its name), ordered by hash."""
        rows = [(title, SPLITS[split]) for title, split in sorted(self._splits.items())]
        return pd.DataFrame(rows, columns=["title_hash", "split"], dtype=str)

    def __len__(self) -> int:
        return len(self._splits)

    def lookup(self, titles: Iterable[str]) -> NDArray[np.uint8]:
        """Return the split of each title, a position in SPLITS: (N,). Raises KeyError for a title without a split."""
        titles = list(titles)
        splits = [self._splits.get(title_hash(title)) for title in titles]
        if unassigned := [title for title, split in zip(titles, splits, strict=True) if split is None]:
            raise KeyError(
                f"{len(unassigned)} of {len(titles)} titles have no split, such as {unassigned[:3]}: "
                "assign them with TitleSplits.extended first"
            )
        return np.array(splits, dtype=np.uint8)

    def merged(self, other: TitleSplits) -> TitleSplits:
        """Return the titles of both; a title whose splits differ keeps this one's, the older."""
        return TitleSplits(other._splits | self._splits)

    def differing(self, other: TitleSplits) -> int:
        """Count the titles that have another split in `other`."""
        return sum(other._splits.get(title, split) != split for title, split in self._splits.items())

    def extended(self, titles: Sequence[str], codes: Sequence[int], config: SplitConfig) -> TitleSplits:
        """Assign the titles that have no split yet. titles[i] has the class codes[i]; (N,), (N,).

        The same titles and codes give the same splits in any order of rows. `hash % 100` would be simpler, but would
        leave small classes without a training or a test title. The rule, title by title (small: under four titles):

        1. Classes with four titles or more come first, the rarest of them first, then small ones; a class's titles
           come in the order of their hashes.
        2. A title goes to the split that most of its classes still miss; of equals, train before test before blending
           before validation. If its classes have all four, it goes to the split furthest below its share.
        3. Where shared titles leave a class of four or more without a split, a new title moves there, provided that no
           other class loses its last title of a split.

        Example, with shares of 74, 8, 8 and 10 %: class A has the titles a1 to a5, class B b1 and b2, class C c1.
        A is not small, so it comes first: a1 train, a2 test, a3 blending, a4 validation; then A lacks
        0.74 * 5 - 1 = 2.7 titles in train, more than in any other split: a5 train. Then C: c1 train. Then B: b1 train,
        b2 test. If a later training adds b3 to b5: b1 and b2 stay, b3 blending, b4 validation, b5 train.

        So every class with four titles of its own is on every split. A class made of shared titles can still miss one:
        not every such puzzle has a solution (of five titles, let each four be a class).
        """
        classes_of: defaultdict[str, set[int]] = defaultdict(set)
        for title, code in zip(titles, codes, strict=True):
            classes_of[title_hash(title)].add(int(code))
        held_out = (config.validation, config.blending, config.test)
        assigner = _SplitAssigner(classes_of, self._splits, (1 - sum(held_out), *held_out))
        assigner.assign_new_titles()
        assigner.fill_missing_splits()
        return TitleSplits(self._splits | assigner.new)


def require_every_split(splits: NDArray[np.uint8], codes: Sequence[int]) -> None:
    """Raise ValueError unless each split has a row and training has two classes. (N,) positions in SPLITS, (N,)"""
    empty = [name for split, name in enumerate(SPLITS) if split not in splits]
    trained_on = len({code for code, split in zip(codes, splits, strict=True) if split == TRAIN})
    if empty or trained_on < 2:
        lack = f"no product on {', '.join(empty)}" if empty else f"{trained_on} class in training"
        raise ValueError(
            f"{lack}: {len(codes)} labelled products of {len(set(codes))} classes are too few to split; "
            "add products until two classes have four different titles each"
        )


def assign_folds(titles: Sequence[str], codes: Sequence[int], folds: int) -> NDArray[np.int64]:
    """Return a fold, 0 to folds - 1, for each row: rows that share a title share a fold. (N,), (N,) -> (N,)

    A class's titles go to the folds in turn, so that a class of two titles is in two folds. The same titles and codes
    give the same folds in any order.
    """
    hashes = [title_hash(title) for title in titles]
    lowest_code: dict[str, int] = {}
    for title, code in zip(hashes, codes, strict=True):
        lowest_code[title] = min(int(code), lowest_code.get(title, int(code)))
    ordered = sorted(lowest_code, key=lambda title: (lowest_code[title], title))
    fold_of = {title: position % folds for position, title in enumerate(ordered)}
    return np.array([fold_of[title] for title in hashes], dtype=np.int64)


def count_shared_photos(photos: Sequence[Hashable], splits: NDArray[np.uint8]) -> tuple[int, list[int]]:
    """Count photos of training products that products of other splits have too: titles differ, so splits may.

    photos: identifies each row's photo file, None for no photo. (N,), (N,) -> the number of such photos, and by split
    the number of rows with one, 0 for TRAIN.
    """
    rows = pd.DataFrame({"photo": photos, "split": splits}).dropna()
    trained, held_out = rows["photo"][rows["split"] == TRAIN], rows[rows["split"] != TRAIN]
    shared = held_out[held_out["photo"].isin(trained)]
    counts = shared["split"].value_counts()
    return shared["photo"].nunique(), [int(counts.get(split, 0)) for split in range(len(SPLITS))]


class _SplitAssigner:
    """Assignment of new titles; see TitleSplits.extended for the rule.

    titles: by class, in the order of their hashes. counts: by class, titles in each split, (4,). new: split by title.
    """

    def __init__(self, classes_of: Mapping[str, set[int]], old: Mapping[str, int], shares: Sequence[float]) -> None:
        self.classes_of, self.old, self.shares = classes_of, old, np.array(shares)
        self.titles: defaultdict[int, list[str]] = defaultdict(list)
        for title in sorted(classes_of):
            for code in classes_of[title]:
                self.titles[code].append(title)
        self.counts = {code: np.zeros(len(SPLITS), dtype=int) for code in sorted(self.titles)}
        for title in classes_of.keys() & old.keys():
            self._count(title, old[title], 1)
        self.new: dict[str, int] = {}

    def assign_new_titles(self) -> None:
        """Assign every title that has no split, the rarest class first, but small classes last."""
        for code in sorted(self.titles, key=lambda code: (self._is_small(code), len(self.titles[code]), code)):
            for title in self.titles[code]:
                if title not in self.old and title not in self.new:
                    self._assign(title, self._choose_split(title))

    def fill_missing_splits(self) -> None:
        """Move new titles to splits that a class of four titles or more misses, one at a time."""
        while move := self._find_move():
            self._assign(*move)

    def _choose_split(self, title: str) -> int:
        counts = np.stack([self.counts[code] for code in self.classes_of[title]])  # (classes, 4)
        missing = (counts == 0).sum(axis=0)
        if missing.any():
            return max(FILL_ORDER, key=missing.__getitem__)
        deficits = self.shares * (counts.sum() + len(counts)) - counts.sum(axis=0)
        return max(FILL_ORDER, key=deficits.__getitem__)

    def _find_move(self) -> tuple[str, int] | None:
        """Return a new title and the missing split to move it to, None if there is no such move."""
        for code, counts in self.counts.items():
            missing = [split for split in FILL_ORDER if counts[split] == 0]
            if missing and not self._is_small(code):
                for title in self.titles[code]:
                    if self._can_move(title):
                        return title, missing[0]
        return None

    def _can_move(self, title: str) -> bool:
        """Return whether the title is new and the last one in its split for none of its classes of four or more."""
        if title not in self.new:
            return False
        codes = [code for code in self.classes_of[title] if not self._is_small(code)]
        return all(self.counts[code][self.new[title]] > 1 for code in codes)

    def _is_small(self, code: int) -> bool:
        return len(self.titles[code]) < len(SPLITS)

    def _assign(self, title: str, split: int) -> None:
        if title in self.new:
            self._count(title, self.new[title], -1)
        self.new[title] = split
        self._count(title, split, 1)

    def _count(self, title: str, split: int, change: int) -> None:
        for code in self.classes_of[title]:
            self.counts[code][split] += change
