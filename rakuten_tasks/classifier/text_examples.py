"""Encoded rows -> what the text branch reads: padded tokens, and the bags of n-grams one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rakuten_tasks.classifier.arrays import ShardArrays

PADDING = 0  # the token id of text.PAD


def padded(tokens: Sequence[NDArray]) -> Tensor:
    """B token lists -> (B, T) int64"""
    return pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in tokens], True, PADDING)


def bags(ngrams: Sequence[NDArray], weights: Sequence[NDArray]) -> tuple[Tensor, Tensor, Tensor]:
    """B lists of buckets and of weights -> (M,), (M,) and the starts (B,)"""
    starts = np.cumsum([0, *map(len, ngrams)])[:-1]
    flat = np.concatenate(ngrams).astype(np.int64), np.concatenate(weights), starts
    buckets, values, at = map(torch.from_numpy, flat)
    return buckets, values, at


class BagExamples:
    """Shards' rows for the bag alone."""

    def __init__(self, arrays: ShardArrays) -> None:
        self.arrays = arrays
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> what `bags` gives."""
        return bags(*(self.arrays.take_ragged(name, rows) for name in ("ngrams", "weights")))


class TokenExamples:
    """Shards' rows for the LSTM alone."""

    def __init__(self, arrays: ShardArrays) -> None:
        self.arrays = arrays
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, T) tokens."""
        return (padded(self.arrays.take_ragged("tokens", rows)),)


def training_bags(arrays: ShardArrays, rows: NDArray, buckets: int) -> sparse.csr_array:
    """Rows' weighed n-grams as one sparse matrix, held whole: about 6 KB a product. (len(rows), buckets)"""
    found = arrays.take_ragged("ngrams", rows)
    ends, ngrams = _ends(found), np.concatenate(found)
    del found  # before the weights are read: both are of the whole catalogue
    weights = np.concatenate(arrays.take_ragged("weights", rows))
    return sparse.csr_array((weights, ngrams, ends), shape=(len(rows), buckets))


def token_counts(arrays: ShardArrays, rows: NDArray, tokens: int) -> sparse.csr_array:
    """How often each token stands in each row. (len(rows), tokens)"""
    found = arrays.take_ragged("tokens", rows)
    ends = _ends(found)
    ones = np.ones(ends[-1], dtype=np.float32)
    counts = sparse.csr_array((ones, np.concatenate(found), ends), shape=(len(rows), tokens))
    counts.sum_duplicates()
    return counts


def _ends(rows: Sequence[NDArray]) -> NDArray:
    """(N,) rows -> (N + 1,) where each begins and ends; int32 if that will do, or scipy makes the indices int64 too."""
    ends = np.cumsum([0, *map(len, rows)])
    return ends.astype(np.int32) if ends[-1] < 2**31 else ends
