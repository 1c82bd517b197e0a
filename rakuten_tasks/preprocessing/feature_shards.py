"""Feature shards on disk (safetensors), read in random order without holding the catalogue in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

OFFSETS = ".offsets"


def ragged(rows: Sequence[NDArray]) -> tuple[NDArray, NDArray]:
    """Concatenate N rows of different lengths into (flat values, offsets of length N + 1)."""
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return (np.concatenate(rows) if rows else np.empty(0)), offsets


def write_shard(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write one shard. A ragged array x is stored as `x` (flat) beside `x.offsets` (N + 1)."""
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path)


def concatenate(parts: Sequence[Mapping[str, NDArray]]) -> dict[str, NDArray]:
    """Join arrays of the rows of several parts, ragged ones included."""
    joined: dict[str, NDArray] = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if name.endswith(OFFSETS):
            ends = np.cumsum([0, *(column[-1] for column in columns)])
            columns = [column[1:] + end for column, end in zip(columns, ends, strict=False)]
            columns = [np.zeros(1, dtype=np.int64), *columns]
        joined[name] = np.concatenate(columns)
    return joined


class ShardArrays:
    """Rows of several shards, numbered from 0 to N - 1 and read on demand."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """paths: shards with the same array names, each with `row` (n,)."""
        self.paths = list(paths)
        self._shards = [safe_open(path, framework="np") for path in paths]
        sizes = [shard.get_slice("row").get_shape()[0] for shard in self._shards]
        self._starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return sorted(self._shards[0].keys()) if self._shards else []

    def column(self, name: str) -> NDArray:
        """Read a small array, such as labels or offsets, of all rows. (N, ...)"""
        parts = [shard.get_tensor(name) for shard in self._shards]
        return np.concatenate(parts) if parts else np.empty(0)

    def shards(self, names: Sequence[str]) -> Iterator[dict[str, NDArray]]:
        """Yield these arrays, a shard at a time."""
        for shard in self._shards:
            yield {name: shard.get_tensor(name) for name in names}

    def take(self, name: str, rows: NDArray) -> NDArray:
        """Read rows of a fixed-size array, in this order. (N, ...) -> (len(rows), ...)"""
        return np.stack([array[row] for array, row in self._slices(name, rows)])

    def take_ragged(self, name: str, rows: NDArray) -> list[NDArray]:
        """Read rows of a ragged array, in this order, each with its own length."""
        bounds = [offsets[row : row + 2] for offsets, row in self._slices(name + OFFSETS, rows)]
        values = [array for array, _ in self._slices(name, rows)]
        return [array[int(start) : int(end)] for array, (start, end) in zip(values, bounds, strict=True)]

    def _slices(self, name: str, rows: NDArray) -> list[tuple]:
        """Find the array of the shard that contains each row, and the row's number in it."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        slices = {int(shard): self._shards[shard].get_slice(name) for shard in np.unique(shards)}
        return [(slices[int(shard)], int(row - self._starts[shard])) for shard, row in zip(shards, rows, strict=True)]


def class_index(codes: Iterable, classes: Sequence[int]) -> NDArray:
    """Convert codes (N,) or nulls to positions in `classes` (ascending), or -1. int64 (N,)"""
    positions = {code: i for i, code in enumerate(classes)}
    return np.array([positions.get(code, -1) for code in codes], dtype=np.int64)


class FeatureTable:
    """Features of one extractor, indexed by the catalogue's row numbers."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._arrays = ShardArrays(paths)
        stored = self._arrays.column("row")
        self._order = np.argsort(stored)
        self._rows = stored[self._order]

    def has(self, rows: NDArray) -> NDArray:
        """Tell whether there are features of each row. (N,) -> (N,) bool"""
        return np.isin(rows, self._rows)

    def take(self, rows: NDArray) -> dict[str, NDArray]:
        """Read all arrays of these rows, in the form of Extractor.extract."""
        positions = self._order[np.searchsorted(self._rows, rows)]
        arrays: dict[str, NDArray] = {}
        for name in self._arrays.names:
            if name + OFFSETS in self._arrays.names:
                arrays[name], arrays[name + OFFSETS] = ragged(self._arrays.take_ragged(name, positions))
            elif name != "row" and not name.endswith(OFFSETS):
                arrays[name] = self._arrays.take(name, positions)
        return arrays
