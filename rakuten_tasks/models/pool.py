"""Log-linear pool of the members, fitted by maximum likelihood on scores of rows that they were not trained on.

log p = sum over members of weight * logits, normalised. The fit is convex: one optimum, for any number of members.
Source: Genest and Zidek 1986, doi 10.1214/ss/1177013825.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from rakuten_tasks.config import Strict
from rakuten_tasks.evaluation.calibration import fit_scale, fit_weights

MODALITIES = ("text", "photo")


@dataclass(frozen=True)
class Logits:
    """Logits of N products. by_member: (N, K) fp32, zeros where unavailable; available: (N,) bool."""

    by_member: dict[str, NDArray]
    available: dict[str, NDArray]

    def take(self, rows: NDArray) -> Logits:
        """Select rows, in this order."""
        return Logits(
            {name: logits[rows] for name, logits in self.by_member.items()},
            {name: mask[rows] for name, mask in self.available.items()},
        )


@dataclass(frozen=True)
class Pool(Strict):
    """The weights that combine members' logits. Part of the bundle's JSON.

    modality: member -> text or photo. weights: by the modalities that a product has ("text", "photo", "text+photo")
    -> member -> weight, 0 or above. scales: member -> the weight at which it is calibrated alone, for reports.
    prior: (K,), the probabilities of a product without text and photo.
    """

    modality: dict[str, str]
    weights: dict[str, dict[str, float]]
    scales: dict[str, float]
    prior: list[float]

    def probabilities(self, logits: Logits) -> NDArray:
        """Compute class probabilities of N products; each row sums to 1. (N, K) fp64"""
        scored = np.zeros(len(next(iter(logits.available.values()))), dtype=bool)
        total = np.zeros((len(scored), len(self.prior)))
        for key, weights in self.weights.items():
            rows = self.rows_with(logits, key.split("+"))
            scored |= rows
            for name, weight in weights.items():
                total[rows] += weight * np.where(logits.available[name][rows, None], logits.by_member[name][rows], 0)
        result = softmax(total, axis=1)
        result[~scored] = self.prior
        return result

    def alone(self, logits: Logits, name: str) -> NDArray:
        """Compute calibrated probabilities of one member; the prior where it is not available. (N, K) fp64"""
        result = softmax(self.scales[name] * logits.by_member[name].astype(np.float64), axis=1)
        result[~logits.available[name]] = self.prior
        return result

    def text_only(self, logits: Logits) -> NDArray | None:
        """Compute probabilities without the photos; None unless there are members of both modalities. (N, K) fp64"""
        if set(self.modality.values()) != set(MODALITIES):
            return None
        masks = {name: mask & (self.modality[name] == "text") for name, mask in logits.available.items()}
        return self.probabilities(Logits(logits.by_member, masks))

    def rows_with(self, logits: Logits, modalities: Sequence[str]) -> NDArray:
        """Select products that have exactly these modalities, among those of the members. (N,) bool"""
        return np.logical_and.reduce(
            [self.has(logits, modality) == (modality in modalities) for modality in set(self.modality.values())]
        )

    def has(self, logits: Logits, modality: str) -> NDArray:
        """Tell whether a member of this modality is available for each product. (N,) bool"""
        return np.logical_or.reduce(
            [mask for name, mask in logits.available.items() if self.modality[name] == modality]
        )


def fit_pool(logits: Logits, labels: NDArray, modality: Mapping[str, str], prior: NDArray) -> Pool:
    """Fit weights for products with text only, photo only, and both, on rows that the members were not trained on.

    logits: of N rows, available where a member scored the row without being trained on it: nearly all rows for members
    that are fitted out of fold, held-out ones for networks. labels: (N,) class indices; prior: (K,).
    """
    scales = {
        name: fit_scale(scores[logits.available[name]], labels[logits.available[name]])
        for name, scores in logits.by_member.items()
    }
    kinds = sorted(set(modality.values()), key=MODALITIES.index)
    weights = {}
    for subset in [[kind] for kind in kinds] + ([kinds] if len(kinds) > 1 else []):
        names = [name for name in logits.by_member if modality[name] in subset]
        weights["+".join(subset)] = _fit_weights(names, logits, labels, scales)
    return Pool(dict(modality), weights, scales, [float(share) for share in prior])


def _fit_weights(
    names: Sequence[str], logits: Logits, labels: NDArray, scales: Mapping[str, float]
) -> dict[str, float]:
    """Fit the members that scored most rows together, on their common rows; then add the others one by one.

    When a member is added, the pool before it counts as one member, on the rows that the new one scored. So the weight
    of a member that is fitted out of fold is fitted on all rows, though a network has only a few held-out rows.
    """
    counts = {name: int(logits.available[name].sum()) for name in names}
    first = [name for name in names if 2 * counts[name] >= max(counts.values())]
    later = sorted((name for name in names if name not in first), key=lambda name: -counts[name])
    weights: dict[str, float] = {}
    for group in [first, *([name] for name in later)]:
        rows = np.logical_and.reduce([logits.available[name] for name in [*weights, *group]])
        added = [scales[name] * logits.by_member[name][rows].astype(np.float64) for name in group]
        former = [_weighted_sum(logits, weights, rows)] if weights else []
        fitted = fit_weights(np.stack([*former, *added]), labels[rows])
        if former and not rows.any():
            fitted = np.array([1.0, 0.0])  # no common row on which to fit the new member's weight
        weights = {name: weight * float(fitted[0]) for name, weight in weights.items()}
        weights |= {name: scales[name] * float(w) for name, w in zip(group, fitted[len(former) :], strict=True)}
    return {name: weights[name] for name in names}


def _weighted_sum(logits: Logits, weights: Mapping[str, float], rows: NDArray) -> NDArray:
    parts = [weight * logits.by_member[name][rows].astype(np.float64) for name, weight in weights.items()]
    return np.sum(parts, axis=0)
