"""Placement of titles one by one: every class with four titles of its own gets a title on every split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


def assign_titles(
    classes_of: Mapping[int, set[int]], old: Mapping[int, int], shares: Sequence[float], order: Sequence[int]
) -> dict[int, int]:
    """Return the split of each title that is not in `old`.

    classes_of: by title hash, the codes of its classes. old: by title hash, its split. shares: by split. order: of
    splits, the first to be filled first; here train, test, blending, validation.

    The same titles and classes give the same splits in any order. `hash % 100` would be simpler, but would leave small
    classes without a training or a test title. The rule, title by title (small: under four titles):

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
    assigner = _SplitAssigner(classes_of, old, shares, order)
    assigner.assign_new_titles()
    assigner.fill_missing_splits()
    return assigner.new


class _SplitAssigner:
    """Assignment of new titles; see assign_titles for the rule.

    titles: by class, in the order of their hashes. counts: by class, titles in each split, (4,). new: split by title.
    """

    def __init__(
        self,
        classes_of: Mapping[int, set[int]],
        old: Mapping[int, int],
        shares: Sequence[float],
        order: Sequence[int],
    ) -> None:
        self.classes_of, self.old, self.shares, self.order = classes_of, old, np.array(shares), order
        self.titles: defaultdict[int, list[int]] = defaultdict(list)
        for title in sorted(classes_of):
            for code in classes_of[title]:
                self.titles[code].append(title)
        self.counts = {code: np.zeros(len(self.order), dtype=int) for code in sorted(self.titles)}
        for title in classes_of.keys() & old.keys():
            self._count(title, old[title], 1)
        self.new: dict[int, int] = {}

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

    def _choose_split(self, title: int) -> int:
        counts = np.stack([self.counts[code] for code in self.classes_of[title]])  # (classes, 4)
        missing = (counts == 0).sum(axis=0)
        if missing.any():
            return max(self.order, key=missing.__getitem__)
        deficits = self.shares * (counts.sum() + len(counts)) - counts.sum(axis=0)
        return max(self.order, key=deficits.__getitem__)

    def _find_move(self) -> tuple[int, int] | None:
        """Return a new title and the missing split to move it to, None if there is no such move."""
        for code, counts in self.counts.items():
            missing = [split for split in self.order if counts[split] == 0]
            if missing and not self._is_small(code):
                for title in self.titles[code]:
                    if self._can_move(title):
                        return title, missing[0]
        return None

    def _can_move(self, title: int) -> bool:
        """Return whether the title is new and the last one in its split for none of its classes of four or more."""
        if title not in self.new:
            return False
        codes = [code for code in self.classes_of[title] if not self._is_small(code)]
        return all(self.counts[code][self.new[title]] > 1 for code in codes)

    def _is_small(self, code: int) -> bool:
        return len(self.titles[code]) < len(self.order)

    def _assign(self, title: int, split: int) -> None:
        if title in self.new:
            self._count(title, self.new[title], -1)
        self.new[title] = split
        self._count(title, split, 1)

    def _count(self, title: int, split: int, change: int) -> None:
        for code in self.classes_of[title]:
            self.counts[code][split] += change
