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
    """Rows of different lengths as (flat values, offsets of length N + 1)."""
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return (np.concatenate(rows) if rows else np.empty(0)), offsets


def write_shard(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write one shard. A ragged array x is stored as `x` (flat) beside `x.offsets` (N + 1)."""
    save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path)


class ShardArrays:
    """Rows of several shards under one numbering, 0 to N - 1; only the rows asked for are read."""

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
        """Of the arrays."""
        return sorted(self._shards[0].keys()) if self._shards else []

    def column(self, name: str) -> NDArray:
        """A small array of every row, whole: labels, sides, offsets. (N, ...)"""
        parts = [shard.get_tensor(name) for shard in self._shards]
        return np.concatenate(parts) if parts else np.empty(0)

    def shards(self, names: Sequence[str]) -> Iterator[dict[str, NDArray]]:
        """These arrays of each shard, whole, a shard at a time."""
        for shard in self._shards:
            yield {name: shard.get_tensor(name) for name in names}

    def take(self, name: str, rows: NDArray) -> NDArray:
        """The rows of a fixed-size array, in the order asked for. (N, ...) -> (len(rows), ...)"""
        return np.stack([shard[at] for shard, at in self._places(name, rows)])

    def take_ragged(self, name: str, rows: NDArray) -> list[NDArray]:
        """The rows of a ragged array, in the order asked for, each with its own length."""
        bounds = [shard[at : at + 2] for shard, at in self._places(name + OFFSETS, rows)]
        values = self._places(name, rows)
        return [shard[int(b[0]) : int(b[1])] for (shard, _), b in zip(values, bounds, strict=True)]

    def _places(self, name: str, rows: NDArray) -> list[tuple]:
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        slices = {int(owner): self._shards[owner].get_slice(name) for owner in np.unique(owners)}
        return [(slices[int(o)], int(r - self._starts[o])) for o, r in zip(owners, rows, strict=True)]


def class_index(codes: Iterable, classes: Sequence[int]) -> NDArray:
    """Codes (N,), null where unknown -> positions in `classes` (ascending), -1 where unknown. int64 (N,)"""
    positions = {code: i for i, code in enumerate(classes)}
    return np.array([positions.get(code, -1) for code in codes], dtype=np.int64)


class FeatureTable:
    """Features of one extractor, by the catalogue's row numbers."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._arrays = ShardArrays(paths)
        self._places = {int(row): place for place, row in enumerate(self._arrays.column("row"))}

    def has(self, rows: NDArray) -> NDArray:
        """Whether there are features of each row. (N,) -> (N,) bool"""
        return np.array([int(row) in self._places for row in rows], dtype=bool)

    def take(self, rows: NDArray) -> dict[str, NDArray]:
        """All arrays of these rows, as Extractor.extract gives them."""
        places = np.array([self._places[int(row)] for row in rows], dtype=np.int64)
        found: dict[str, NDArray] = {}
        for name in self._arrays.names:
            if name + OFFSETS in self._arrays.names:
                found[name], found[name + OFFSETS] = ragged(self._arrays.take_ragged(name, places))
            elif name != "row" and not name.endswith(OFFSETS):
                found[name] = self._arrays.take(name, places)
        return found
