"""Log-linear pool of the members, fitted by maximum likelihood on scores of rows that they were not trained on.

log p = sum over members of weight * logits, normalised. The fit is convex: one optimum, for any number of members.
Source: Genest and Zidek 1986, doi 10.1214/ss/1177013825.

A product may be settled in an early stage, by the cheap members alone: see `Pool.thresholds` and cascade.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from rakuten_tasks.config_base import Strict
from rakuten_tasks.evaluation.calibration import fit_scale, fit_weights

MODALITIES = ("text", "photo")
# Stages before the photo: n-grams and tokens; a text encoder's vectors too. A stage of all text members is "text".
WORDS, SENTENCES = "words", "sentences"


@dataclass(frozen=True)
class Logits:
    """Logits of N products. by_member: (N, K) fp32, zeros where unavailable; available: (N,) bool.

    A member is not available where it has no input, or where an earlier stage settled the product.
    """

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
    """The weights that combine members' logits, and when some are enough. Part of the bundle's JSON.

    modality: member -> text or photo. weights: by the modalities that a product has ("text", "photo", "text+photo")
    -> member -> weight, 0 or above; also of early stages that settle products. scales: member -> the weight at which
    it is calibrated alone, for reports. prior: (K,), the probabilities of a product without text and photo.
    thresholds: by the modalities that a product has -> by the weights of an early stage, the cheapest first -> the
    confidence from which its answer is final.
    """

    modality: dict[str, str]
    weights: dict[str, dict[str, float]]
    scales: dict[str, float]
    prior: list[float]
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, list[str]]:
        """The members that each stage adds to those before it, the cheapest stage first."""
        stages: dict[str, list[str]] = {}
        rest = list(self.modality)
        for stage in (WORDS, SENTENCES, *MODALITIES):
            members = self.weights.get(stage, {})
            if added := [name for name in rest if name in members]:
                stages[stage] = added
            rest = [name for name in rest if name not in members]
        return stages

    def select_early_exits(self, stage: str, logits: Logits, has: Mapping[str, NDArray]) -> NDArray:
        """Select the products for which the members up to a stage are enough. (N,) bool

        has: (N,) bool by modality, what a product has, whether or not a member of it was asked.
        """
        result = np.zeros(len(next(iter(has.values()))), dtype=bool)
        for modalities, thresholds in self.thresholds.items():
            if stage in thresholds:
                rows = np.flatnonzero(_equal(has, modalities.split("+")))
                result[rows] = self._pooled(stage, logits, rows).max(1) >= thresholds[stage]
        return result

    def cascade(self, logits: Logits) -> Logits:
        """Mark members as not available where an earlier stage settles the product. logits: of all members."""
        has = {kind: self.has(logits, kind) for kind in set(self.modality.values())}
        available, done = dict(logits.available), np.zeros(len(next(iter(has.values()))), dtype=bool)
        for stage, names in self.stages.items():
            available |= {name: available[name] & ~done for name in names}
            done |= self.select_early_exits(stage, logits, has)
        return Logits(logits.by_member, available)

    def probabilities(self, logits: Logits) -> NDArray:
        """Compute class probabilities of N products; each row sums to 1. (N, K) fp64"""
        count = len(next(iter(logits.available.values())))
        result = np.tile(np.asarray(self.prior, dtype=np.float64), (count, 1))
        for weights, rows in self.rows_by_weights(logits).items():
            result[rows] = self._pooled(weights, logits, rows)
        return result

    def _pooled(self, weights: str, logits: Logits, rows: NDArray) -> NDArray:
        total = np.zeros((len(rows), len(self.prior)))
        for name, weight in self.weights[weights].items():
            total += weight * np.where(logits.available[name][rows, None], logits.by_member[name][rows], 0)
        return softmax(total, axis=1)

    def rows_by_weights(self, logits: Logits) -> dict[str, NDArray]:
        """Select for each set of weights its products: those whose available members have all of their weights in it,
        and in no smaller set. Row numbers, ascending; products without any member are in none."""
        rest = np.logical_or.reduce(list(logits.available.values()))
        result = {}
        for key, weights in sorted(self.weights.items(), key=lambda item: len(item[1])):
            others = [mask for name, mask in logits.available.items() if name not in weights]
            rows = rest & ~np.logical_or.reduce(others) if others else rest
            result[key], rest = np.flatnonzero(rows), rest & ~rows
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

    def has(self, logits: Logits, modality: str) -> NDArray:
        """Tell whether a member of this modality is available for each product. (N,) bool"""
        masks = [mask & (self.modality[name] == modality) for name, mask in logits.available.items()]
        return np.logical_or.reduce(masks)


def _equal(has: Mapping[str, NDArray], modalities: Sequence[str]) -> NDArray:
    return np.logical_and.reduce([mask == (kind in modalities) for kind, mask in has.items()])


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
        weights["+".join(subset)] = fit_member_weights(names, logits, labels, scales)
    return Pool(dict(modality), weights, scales, [float(share) for share in prior])


def fit_member_weights(
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
        former = [weighted_sum(logits, weights, rows)] if weights else []
        fitted = fit_weights(np.stack([*former, *added]), labels[rows])
        if former and not rows.any():
            fitted = np.array([1.0, 0.0])  # no common row on which to fit the new member's weight
        weights = {name: weight * float(fitted[0]) for name, weight in weights.items()}
        weights |= {name: scales[name] * float(w) for name, w in zip(group, fitted[len(former) :], strict=True)}
    return {name: weights[name] for name in names}


def weighted_sum(logits: Logits, weights: Mapping[str, float], rows: NDArray) -> NDArray:
    """Add up members' weighted logits of some rows. (n, K) fp64"""
    parts = [weight * logits.by_member[name][rows].astype(np.float64) for name, weight in weights.items()]
    return np.sum(parts, axis=0)
