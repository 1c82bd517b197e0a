"""Bootstrap intervals of a system's metrics, and of the paired difference between two systems.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, percentile intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rakuten_tasks.config_base import Strict

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)  # quantiles
MIN_POSITIVE = float(np.finfo(np.float64).eps)  # lower bound of probabilities, as in scikit-learn's log_loss: 36 nats


@dataclass(frozen=True)
class MetricCI(Strict):
    """A metric and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def signed(self) -> str:
        """Format a difference."""
        value, low, high = (round(number, 3) + 0.0 for number in (self.value, self.low, self.high))  # never -0.000
        return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def log_losses(probabilities: NDArray, labels: NDArray) -> NDArray:
    """Compute the negative log of the label's probability. (N, K), (N,) class indices -> (N,), nats"""
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], MIN_POSITIVE))


def weighted_f1(labels: NDArray, predicted: NDArray) -> float:
    """Compute it for (N,), (N,) class indices, N above 0."""
    cells, counts = np.unique(np.stack([labels, predicted], 1), axis=0, return_counts=True)
    return float(_scores(counts[None], cells[:, 0], cells[:, 1], int(cells.max()) + 1)["weighted_f1"][0])


def hard_intervals(labels: NDArray, predicted: NDArray, classes: int, seed: int) -> dict[str, MetricCI]:
    """Compute weighted_f1, macro_f1 and accuracy of (N,) predicted class indices."""
    cells, counts, resampled = _resample(np.stack([labels, predicted], 1), seed, RESAMPLES)
    values = _scores(counts[None], cells[:, 0], cells[:, 1], classes)
    samples = _scores(resampled, cells[:, 0], cells[:, 1], classes)
    return {
        name: MetricCI(float(values[name][0]), *map(float, np.quantile(samples[name], INTERVAL))) for name in values
    }


def mean_intervals(values: Mapping[str, NDArray], seed: int) -> dict[str, MetricCI]:
    """Compute the mean of (N,) values by system, all on the same resamples of the rows."""
    stacked = np.stack(list(values.values()), 1)  # (N, S)
    random, n = np.random.default_rng(seed), len(stacked)
    means = [np.bincount(random.integers(n, size=n), minlength=n) @ stacked / n for _ in range(RESAMPLES)]
    low, high = np.quantile(np.stack(means), INTERVAL, axis=0)  # (R, S) -> (S,) each
    return {name: MetricCI(*map(float, ends)) for name, *ends in zip(values, stacked.mean(0), low, high, strict=True)}


def paired_interval(labels: NDArray, predicted_new: NDArray, predicted_old: NDArray, seed: int) -> MetricCI:
    """Compute the new predictions' weighted F1 minus that of the old, with its interval by joint resampling."""
    value = weighted_f1(labels, predicted_new) - weighted_f1(labels, predicted_old)
    differences = paired_differences(labels, predicted_new, predicted_old, seed, RESAMPLES)
    return MetricCI(value, *map(float, np.quantile(differences, INTERVAL)))


def _resample(rows: NDArray, seed: int, resamples: int) -> tuple[NDArray, NDArray, NDArray]:
    """Bootstrap rows (N, m) with few distinct values, called cells, at the cost of the cells, not the rows.

    -> cells (C, m), rows of each (C,), and of each in every resample (R, C): N draws with replacement are a multinomial
    draw.
    """
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=resamples)
    return cells, counts, draws


def _scores(counts: NDArray, labels: NDArray, predicted: NDArray, classes: int) -> dict[str, NDArray]:
    """Compute (R, C) rows in each cell, (C,), (C,) class indices of the cells -> each metric (R,)."""
    true = _by_class(counts, labels, classes)  # (R, K)
    positive = _by_class(counts, predicted, classes)  # (R, K)
    correct = labels == predicted
    true_positive = _by_class(counts[:, correct], labels[correct], classes)  # (R, K)
    f1 = 2 * true_positive / np.maximum(true + positive, 1)  # (R, K)
    rows = true.sum(1)  # (R,)
    return {
        "weighted_f1": (f1 * true).sum(1) / rows,
        "macro_f1": (f1 * (true > 0)).sum(1) / (true > 0).sum(1),
        "accuracy": true_positive.sum(1) / rows,
    }


def _by_class(counts: NDArray, index: NDArray, classes: int) -> NDArray:
    """Sum counts (R, C) over the cells of each class, (C,) -> (R, K)."""
    one_hot = sparse.csr_array((np.ones(len(index)), (np.arange(len(index)), index)), shape=(len(index), classes))
    return counts @ one_hot


def paired_differences(
    labels: NDArray, predicted_new: NDArray, predicted_old: NDArray, seed: int, resamples: int = 2000
) -> NDArray:
    """Compute the new predictions' weighted F1 minus that of the old, in each resample. (resamples,)

    (N,) each, N above 0: codes or class indices of the same rows, which are resampled jointly.
    """
    rows = np.stack([labels, predicted_new, predicted_old], 1)
    values, indices = np.unique(rows, return_inverse=True)
    cells, _, resampled = _resample(indices.reshape(rows.shape), seed, resamples)
    new, old = (_scores(resampled, cells[:, 0], cells[:, i], len(values))["weighted_f1"] for i in (1, 2))
    return new - old


def paired_bootstrap(
    labels: NDArray, predicted_new: NDArray, predicted_old: NDArray, margin: float, seed: int, resamples: int = 2000
) -> float:
    """Estimate the probability that the new predictions' weighted F1 is at most `margin` below that of the old.

    Rows as of paired_differences.
    """
    return float(np.mean(paired_differences(labels, predicted_new, predicted_old, seed, resamples) >= -margin))
