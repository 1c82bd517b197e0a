"""Columns of whole numbers in files, read as memory maps: as long as a catalogue, and in memory only while used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 1 << 16  # numbers in memory at once
MapMode = Literal["r", "r+", "w+"]


class NumberFile:
    """Column of int64 in a file. ascending: whether each number is greater than the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: int | None = None
        self.ascending = True

    def append(self, numbers: ArrayLike) -> None:
        """Add numbers at the end."""
        added = np.asarray(numbers, np.int64)
        if not len(added):
            return
        rises = self._last is None or added[0] > self._last
        self.ascending &= bool(rises and (added[1:] > added[:-1]).all())
        self._last = int(added[-1])
        with self._path.open("ab") as file:
            file.write(added.tobytes())

    def map(self) -> NDArray[np.int64]:
        """Return all numbers as a memory map."""
        return open_map(self._path, "r")

    def map_sorted(self) -> NDArray[np.int64]:
        """Return all numbers in ascending order as a memory map, of a second file unless they are in order already."""
        if self.ascending:
            return self.map()
        path = self._path.with_suffix(".sorted")
        shutil.copyfile(self._path, path)
        numbers = open_map(path, "r+")
        numbers.sort()  # in place
        return numbers

    def map_repeated(self) -> NDArray[np.int64]:
        """Return each number that occurs more than once, in ascending order, as a memory map of another file."""
        repeated = NumberFile(self._path.with_suffix(".repeated"))
        if not self.ascending:
            numbers = self.map_sorted()
            for start in range(0, len(numbers), BLOCK):
                block = numbers[start : start + BLOCK + 1]
                again = np.unique(block[1:][block[1:] == block[:-1]])
                repeated.append(again if repeated._last is None else again[again > repeated._last])
        return repeated.map()


def open_map(path: Path, mode: MapMode, length: int | None = None, dtype: type = np.int64) -> NDArray:
    """Return a file's numbers as a memory map. length: of a file to be created with mode "w+"."""
    if length == 0 or (length is None and not (path.exists() and path.stat().st_size)):
        return np.empty(0, dtype)  # no map can be empty
    return np.asarray(np.memmap(path, dtype, mode, shape=length))


def blocks(numbers: NDArray) -> Iterator[tuple[int, NDArray]]:
    """Yield the position of each block and its numbers, BLOCK at a time."""
    for start in range(0, len(numbers), BLOCK):
        yield start, numbers[start : start + BLOCK]


def locate(numbers: NDArray[np.integer], wanted: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the position of each wanted number in ascending ones, and whether it is there. (N,), (N,)"""
    if not len(numbers):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
    return places, numbers[places] == wanted
