"""Sticky train, validation and test assignment by normalised title: same title, same split, never changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rakuten_tasks.config import SplitConfig
from rakuten_tasks.data.number_files import locate
from rakuten_tasks.data.split_assigner import assign_titles
from rakuten_tasks.data.title_sketch import TitleChunks, TitleSketch, uniform
from rakuten_tasks.preprocessing.text import clean

SPLITS = ("train", "validation", "blending", "test")
TRAIN, VALIDATION, BLENDING, TEST = range(4)
# a class with few titles needs training first, then a test
FILL_ORDER = (TRAIN, TEST, BLENDING, VALIDATION)
FOLDS = 4  # of the titles outside the test split: out of fold, a member is fitted on three quarters each time
SALT = 0x7469746C65207370  # of HashRule
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


class HashRule(NamedTuple):
    """Splits by hash alone, with the shares of the training or publication that first needed the rule."""

    shares: SplitConfig
    salt: int = SALT

    def assign(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the split of each title. (n,) -> (n,)"""
        limits = np.cumsum([self.shares.test, self.shares.blending, self.shares.validation])
        splits = np.array([TEST, BLENDING, VALIDATION, TRAIN], dtype=np.uint8)
        return splits[np.searchsorted(limits, uniform(hashes, self.salt), side="right")]


class TitleSplits:
    """Title hash -> split. Never changes: `extended` and `merged` return a new one in which every title stays.

    A class with RARE titles or more has its titles placed by hash (`rule`), for ever. The titles of other classes are
    placed one by one and listed, and stay as they are listed when their class grows.
    """

    def __init__(
        self,
        hashes: NDArray[np.uint64],
        splits: NDArray[np.uint8],
        codes: NDArray[np.int64],
        rule: HashRule | None = None,
        by_rule: frozenset[int] = frozenset(),
    ) -> None:
        """Store the listed titles with a class of each, (n,) each; rule: None without any class in by_rule."""
        order = np.argsort(hashes)
        self._hashes, self._splits, self._codes = hashes[order], splits[order], codes[order]
        self.rule, self.by_rule = rule, by_rule

    @classmethod
    def empty(cls) -> TitleSplits:
        """Return the splits of no title."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.uint8), np.empty(0, np.int64))

    @classmethod
    def load(cls, path: Path | BinaryIO) -> TitleSplits:
        """Read what `save` wrote."""
        table = pq.read_table(path)
        values = json.loads(table.schema.metadata[b"rule"])
        rule = HashRule(SplitConfig(**values["shares"]), values["salt"]) if values else None
        hashes, splits, codes = (table[name].to_numpy() for name in ("title_hash", "split", "prdtypecode"))
        return cls(hashes, splits, codes, rule, frozenset(values.get("codes", [])))

    def save(self, path: Path | BinaryIO) -> None:
        """Write `table` as Parquet."""
        pq.write_table(self.table(), path)

    def table(self) -> pa.Table:
        """Return title_hash, split and prdtypecode of the listed titles, ordered by hash; the rule as metadata."""
        values = {}
        if self.rule:
            values = {"shares": self.rule.shares.to_dict(), "salt": self.rule.salt, "codes": sorted(self.by_rule)}
        columns = {"title_hash": self._hashes, "split": self._splits, "prdtypecode": self._codes}
        return pa.table(columns).replace_schema_metadata({"rule": json.dumps(values)})

    def __len__(self) -> int:
        """Return the number of listed titles."""
        return len(self._hashes)

    def lookup(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the split of each title, a position in SPLITS. (n,) -> (n,)

        Raises KeyError for a title without a split; there is none where there is a rule.
        """
        listed, splits = self._find(hashes)
        if self.rule:
            return np.where(listed, splits, self.rule.assign(hashes))
        if not listed.all():
            raise KeyError(
                f"{(~listed).sum()} of {len(hashes)} titles have no split, such as those with the hashes "
                f"{[f'{title:016x}' for title in hashes[~listed][:3].tolist()]}: assign them with TitleSplits.extended "
                "first"
            )
        return splits

    def _find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Return which titles are listed, and their splits, 0 for the others. (n,) -> (n,), (n,)"""
        positions, listed = locate(self._hashes, hashes)
        splits = np.zeros(len(hashes), np.uint8)
        splits[listed] = self._splits[positions[listed]]
        return listed, splits

    def merged(self, other: TitleSplits) -> TitleSplits:
        """Return the titles of both; a title whose splits differ keeps this one's, the older."""
        new = ~(self._find(other._hashes)[0] | np.isin(other._codes, list(self.by_rule)))
        added = other._hashes[new], other._splits[new], other._codes[new]
        return self._with(added, self.rule or other.rule, self.by_rule | other.by_rule)

    def differing(self, other: TitleSplits) -> int:
        """Count the titles, listed in one at least, that have another split in `other`."""
        hashes, first = np.unique(np.concatenate((self._hashes, other._hashes)), return_index=True)
        codes = np.concatenate((self._codes, other._codes))[first]
        known = [splits._find(hashes)[0] | np.isin(codes, list(splits.by_rule)) for splits in (self, other)]
        both = hashes[known[0] & known[1]]
        return int((self.lookup(both) != other.lookup(both)).sum())

    def extended(self, chunks: TitleChunks, config: SplitConfig) -> TitleSplits:
        """Assign the titles that have no split yet.

        The same titles and codes give the same splits in any order of rows. Titles of a class with RARE titles or more
        are placed by hash, also those that other classes have too; the others by split_assigner.assign_titles. `chunks`
        is read once, and once more if there is such a class.
        """
        sketch = TitleSketch()
        for hashes, codes in chunks():
            sketch.add(hashes, codes)
        by_rule = self.by_rule | sketch.common
        rule = self.rule or (HashRule(config) if by_rule else None)
        classes_of: defaultdict[int, set[int]] = defaultdict(set)
        for code in sketch.titles.keys() - by_rule:
            for title in sketch.titles[code].tolist():
                classes_of[title].add(code)
        titles = np.array(sorted(classes_of), dtype=np.uint64)
        listed, splits = self._find(titles)
        old = dict(zip(titles[listed].tolist(), splits[listed].tolist(), strict=True))
        new: dict[int, int] = {}
        if rule:
            shared = _find_titles(chunks, by_rule, titles[~listed])
            new = dict(zip(shared.tolist(), rule.assign(shared).tolist(), strict=True))
        held_out = (config.validation, config.blending, config.test)
        new |= assign_titles(classes_of, old | new, (1 - sum(held_out), *held_out), FILL_ORDER)
        codes = np.array([min(classes_of[title]) for title in new], dtype=np.int64)
        added = np.array(list(new), np.uint64), np.array(list(new.values()), np.uint8), codes
        return self._with(added, rule, by_rule)

    def _with(self, added: Sequence[NDArray], rule: HashRule | None, by_rule: frozenset[int]) -> TitleSplits:
        """Return these splits with more listed titles: hashes, splits and codes. (n,), (n,), (n,)"""
        hashes = np.concatenate((self._hashes, added[0]))
        splits = np.concatenate((self._splits, added[1]))
        return TitleSplits(hashes, splits, np.concatenate((self._codes, added[2])), rule, by_rule)


def _find_titles(chunks: TitleChunks, codes: frozenset[int], titles: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return those of the titles (ascending) that a class of `codes` has."""
    shared = np.zeros(len(titles), dtype=np.bool_)
    if len(titles):
        for hashes, row_codes in chunks():
            positions, known = locate(titles, hashes[np.isin(row_codes, list(codes))])
            shared[positions[known]] = True
    return titles[shared]
