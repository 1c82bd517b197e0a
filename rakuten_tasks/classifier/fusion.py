"""How the branches are mixed: a temperature for each, the exact best weight, temperature and floor of the mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.classifier.calibration import TINY, calibrate, fit_floor, fit_temperature
from rakuten_tasks.classifier.evaluation import f1_standard_error
from rakuten_tasks.config import Strict

RESAMPLES = 200
# Scores are sums of some thousand terms: closer than this they are equal.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Logits:
    """What each branch said. by_branch: (N, K) fp32, zeros where not seen; seen: (N,) bool."""

    by_branch: dict[str, NDArray]
    seen: dict[str, NDArray]


@dataclass(frozen=True)
class Fusion(Strict):
    """How branches become one answer. Part of the bundle's JSON."""

    temperatures: dict[str, float]  # branch -> its own temperature
    weights: dict[str, float]  # branch -> weight; they sum to 1
    fused_temperature: float  # of the mix: a mean of calibrated branches is underconfident
    prior: list[float]  # (K,): the answer to a product that no branch can see
    fused_floor: float = 0.0  # of the mix; bundles from before it was fitted have none

    def probabilities(self, logits: Mapping[str, NDArray], present: Mapping[str, NDArray]) -> NDArray:
        """Class probabilities; each row sums to 1.

        logits: (N, K) for each branch; present: (N,) bool, whether the branch saw the product. -> (N, K) fp64.
        Several branches: their weighted mean, at the fused temperature and floor; one: it alone, at its own
        temperature; none: the prior.
        """
        seen = np.stack([present[name] for name in logits])  # (branches, N)
        weights = np.array([[self.weights[name]] for name in logits]) * seen  # (branches, N)
        # A branch of weight 0 still answers for a product that only it saw.
        weights = np.where(weights.sum(0) > 0, weights, seen)
        alone = np.stack([calibrate(scores, self.temperatures[name]) for name, scores in logits.items()])
        mixed = np.einsum("bn,bnk->nk", weights, alone)  # (branches, N, K) -> (N, K)
        several = seen.sum(0) > 1
        mixed[several] = calibrate(np.log(mixed[several] + TINY), self.fused_temperature, self.fused_floor)
        mixed[~seen.any(0)] = self.prior
        return mixed / mixed.sum(1, keepdims=True)


@dataclass(frozen=True)
class WeightSearch:
    """Weighted F1 over every weight of the first branch: scores[i] from edges[i] to edges[i + 1]."""

    weight: float  # the one chosen: the plateau's centre
    optimum: float  # the best weighted F1 of any weight
    low: float  # the plateau: the weights around the optimum that are at most a standard error below it
    high: float
    standard_error: float  # of the optimum, by bootstrap; at least two rows' worth
    edges: NDArray  # (M + 1,) ascending, 0 to 1
    scores: NDArray  # (M,)


def best_weight(first: NDArray, second: NDArray, labels: NDArray) -> WeightSearch:
    """The exact optimum of weighted F1 over all mixes weight * first + (1 - weight) * second, weight from 0 to 1.

    (N, K), (N, K) probabilities, (N,) class indices. Each class's score is a line in the weight, so a row's answer
    changes only where the upper envelope of its lines bends, and F1 only there (Och 2003, ACL P03-1021). The weight is
    the centre of the plateau within one standard error of the best score: with 40 rows and a photo branch at chance the
    optimum's own weight lost 0.004 weighted F1 to the first branch alone, the centre nothing. Without rows it is 1.
    """
    if not len(labels):
        return WeightSearch(1.0, 0.0, 0.0, 1.0, 0.0, np.array([0.0, 1.0]), np.zeros(1))
    edges, scores = _curve(_upper_envelopes(first, second), labels, first.shape[1])
    optimum = scores.max()
    widest = np.argmax(np.diff(edges) * (scores >= optimum - ROUNDING))
    weight = edges[widest : widest + 2].mean()
    predicted = (weight * first + (1 - weight) * second).argmax(1)
    # A perfect score has no spread: two rows at least, or luck on 40 rows would decide (worst loss 0.058, so 0.004).
    error = max(f1_standard_error(labels, predicted, seed=0, resamples=RESAMPLES), 2 / len(labels))
    outside = np.flatnonzero(scores < optimum - error - ROUNDING)
    after = np.searchsorted(outside, widest)
    low = edges[outside[after - 1] + 1] if after > 0 else 0.0
    high = edges[outside[after]] if after < len(outside) else 1.0
    return WeightSearch(float((low + high) / 2), float(optimum), float(low), float(high), error, edges, scores)


@dataclass(frozen=True)
class _Envelopes:
    """Each row's answer just above weight 0, (N,), and every change of an answer, (E,) each, ascending by weight."""

    start: NDArray
    row: NDArray
    weight: NDArray
    left: NDArray
    entered: NDArray


def _upper_envelopes(first: NDArray, second: NDArray) -> _Envelopes:
    """Follow all rows at once, from weight 0 to 1: the next line on top is the first that meets the present one.

    (N, K), (N, K) -> changes. Lines that coincide: the lowest class index, as np.argmax has it.
    """
    height = second.astype(np.float64)  # (N, K), at weight 0
    slope = first - height
    rows = np.arange(len(slope))
    current = _steepest(slope, height == height.max(1, keepdims=True))
    start, reached, changes = current, np.zeros(len(rows)), []
    while len(rows):
        here = np.arange(len(rows)), current
        rise = slope - slope[here][:, None]
        gap = height[here][:, None] - height
        meet = np.divide(gap, rise, out=np.full_like(gap, np.inf), where=rise > 0)  # (active rows, K)
        nearest = meet.min(1)
        follower = _steepest(slope, meet == nearest[:, None])
        goes = nearest < 1
        # Rounding must not let a row go back, or its changes would be sorted in the wrong order.
        reached = np.maximum(nearest, reached)[goes]
        changes.append((rows[goes], reached, current[goes], follower[goes]))
        rows, current, slope, height = rows[goes], follower[goes], slope[goes], height[goes]
    row, weight, left, entered = (np.concatenate(parts) for parts in zip(*changes, strict=True))
    order = np.argsort(weight, kind="stable")
    return _Envelopes(start, row[order], weight[order], left[order], entered[order])


def _steepest(slope: NDArray, among: NDArray) -> NDArray:
    """(N, K) slopes, (N, K) bool -> (N,): of the lines on top, the one that stays on top."""
    return np.where(among, slope, -np.inf).argmax(1)


def _curve(envelopes: _Envelopes, labels: NDArray, classes: int) -> tuple[NDArray, NDArray]:
    """Weighted F1 between the changes: edges (M + 1,), scores (M,). Sorted, not recounted: E log E steps for E changes.

    A change takes a row from one class and gives it to another: two events, each of which moves one class's F1.
    """
    changed = len(envelopes.weight)
    event_class = np.stack([envelopes.left, envelopes.entered], 1).ravel()  # (2E,)
    step = np.tile([-1, 1], changed)
    hit_step = step * (event_class == labels[envelopes.row].repeat(2))
    order = np.argsort(event_class, kind="stable")  # by class, and by weight within a class
    of, step, hit_step = event_class[order], step[order], hit_step[order]
    sizes = np.bincount(of, minlength=classes)
    begin = (np.cumsum(sizes) - sizes)[of]  # where the event's class begins

    support = np.bincount(labels, minlength=classes)
    claimed = np.bincount(envelopes.start, minlength=classes)
    hits = np.bincount(labels[envelopes.start == labels], minlength=classes)

    def running(initial: NDArray, steps: NDArray) -> NDArray:
        total = np.concatenate(([0], np.cumsum(steps)))
        return initial[of] + total[1:] - total[begin]

    def share(k: NDArray, claimed: NDArray, hits: NDArray) -> NDArray:
        return support[k] / len(labels) * 2 * hits / np.maximum(support[k] + claimed, 1)

    claimed_after, hits_after = running(claimed, step), running(hits, hit_step)
    gain = share(of, claimed_after, hits_after) - share(of, claimed_after - step, hits_after - hit_step)
    gains = np.bincount(order // 2, gain, minlength=changed)  # (E,): both events of a change
    scores = share(np.arange(classes), claimed, hits).sum() + np.concatenate(([0], np.cumsum(gains)))
    edges = np.concatenate(([0], envelopes.weight, [1]))
    wide = np.diff(edges) > 0
    return np.append(edges[:-1][wide], 1.0), scores[wide]


def fit_fusion(logits_a: Logits, labels_a: NDArray, logits_b: Logits, labels_b: NDArray) -> tuple[Fusion, WeightSearch]:
    """Branch temperatures on validation A; the weights, then the mix's temperature and floor, on validation B.

    Of more than two branches each one more gets its exact weight against the mix of those before it; the search given
    back is the last one. A branch that saw nothing on A keeps temperature 1; if no product of B was seen by all,
    products with all of them are answered by the first branch alone, at temperature 1 for the mix.
    """
    temperatures = {
        name: fit_temperature(scores[logits_a.seen[name]], labels_a[logits_a.seen[name]])
        for name, scores in logits_a.by_branch.items()
    }
    by_all = np.logical_and.reduce(list(logits_b.seen.values()))
    labels = labels_b[by_all]
    alone = {name: calibrate(logits_b.by_branch[name][by_all], t) for name, t in temperatures.items()}
    first, *others = alone
    weights, mixed = {first: 1.0}, alone[first]
    for name in others:
        search = best_weight(mixed, alone[name], labels)
        weights = {before: search.weight * weight for before, weight in weights.items()} | {name: 1 - search.weight}
        mixed = search.weight * mixed + (1 - search.weight) * alone[name]  # (N seen by all, K)
    counts = np.bincount(np.concatenate([labels_a, labels_b]), minlength=mixed.shape[1])
    fused_temperature, fused_floor = fit_floor(np.log(mixed + TINY), labels)
    fusion = Fusion(
        temperatures=temperatures,
        weights=weights,
        fused_temperature=fused_temperature,
        fused_floor=fused_floor,
        # one more of each: a class that validation lacks is rare, not impossible
        prior=((counts + 1) / (counts + 1).sum()).tolist(),
    )
    return fusion, search
