"""The cascade: from which confidence the cheap members of the pool are enough, so that the others are not computed.

Learnt on rows that the members were not trained on, as the pool's weights. Stages: n-grams and tokens, then the text
encoder, then the photo. A threshold is the lowest confidence at which, and above which, the cascade is as good as the
whole pool on these rows, see `_choose`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from rakuten_tasks.config_base import Strict
from rakuten_tasks.evaluation.bootstrap import weighted_f1
from rakuten_tasks.evaluation.metrics import reliability
from rakuten_tasks.models.pool import SENTENCES, WORDS, Logits, Pool, fit_member_weights, weighted_sum

MAX_F1_LOSS = 0.001  # of the whole cascade, on all rows
MAX_ECE_RISE = 0.003
MIN_ROWS = 300  # with fewer rows no stage settles anything
STEPS = 40  # thresholds that are tried: each settles another 1 / STEPS of the rows


@dataclass(frozen=True)
class CascadePoint(Strict):
    """The cascade with one threshold. coverage: share of the rows that the stage, or one before it, settles."""

    threshold: float
    coverage: float
    weighted_f1: float
    ece: float


@dataclass(frozen=True)
class StageReport(Strict):
    """What a stage's threshold does, for products with some modalities, given the thresholds of the later stages.

    rows: that were compared. weighted_f1, ece: without the stage. points: the highest threshold first. threshold: the
    chosen one; None if the stage settles nothing.
    """

    modalities: str
    stage: str
    rows: int
    weighted_f1: float
    ece: float
    points: list[CascadePoint]
    threshold: float | None

    @property
    def chosen(self) -> CascadePoint | None:
        """The point of the threshold."""
        return next((point for point in self.points if point.threshold == self.threshold), None)


def learn_cascade(
    pool: Pool, logits: Logits, labels: NDArray, cheap: Collection[str]
) -> tuple[Pool, list[StageReport]]:
    """Add early stages to a pool. logits, labels: those that it was fitted on. cheap: members that read only words."""
    members = _members_with_most_rows(pool, logits, cheap)
    weights = {**_weigh_early_stages(pool, members, logits, labels, cheap), **pool.weights}
    candidate = replace(pool, weights=weights)
    kinds = [modalities for modalities in pool.weights if "text" in modalities.split("+")]
    reports = [report for kind in kinds for report in _learn_stages(candidate, kind, members, logits, labels)]
    thresholds: dict[str, dict[str, float]] = {}
    for report in reversed(reports):  # the cheapest stage first
        if report.threshold is not None:
            thresholds.setdefault(report.modalities, {})[report.stage] = report.threshold
    settling = {stage for stages in thresholds.values() for stage in stages}
    weights = {key: weights[key] for key in weights if key in pool.weights or key in settling}
    return replace(pool, weights=weights, thresholds=thresholds), reports


def _members_with_most_rows(pool: Pool, logits: Logits, cheap: Collection[str]) -> list[str]:
    """Leave out networks that were held out on few rows, where another member reads the same kind of input."""
    counts = {name: int(mask.sum()) for name, mask in logits.available.items()}
    kind = {name: (modality, name in cheap) for name, modality in pool.modality.items()}
    most = {key: max(counts[name] for name in kind if kind[name] == key) for key in kind.values()}
    return [name for name in kind if 2 * counts[name] >= most[kind[name]]]


def _weigh_early_stages(
    pool: Pool, members: Sequence[str], logits: Logits, labels: NDArray, cheap: Collection[str]
) -> dict[str, dict[str, float]]:
    """Fit the weights of stages before the photo, the cheapest first, unless they are those of "text"."""
    text = [name for name in members if pool.modality[name] == "text"]
    stages = {WORDS: [name for name in text if name in cheap], SENTENCES: text}
    if not stages[WORDS] or stages[WORDS] == text:
        del stages[WORDS]
    return {
        stage: fit_member_weights(names, logits, labels, pool.scales)
        for stage, names in stages.items()
        if names and set(names) != set(pool.weights["text"])
    }


def _learn_stages(
    pool: Pool, modalities: str, members: Sequence[str], logits: Logits, labels: NDArray
) -> Iterator[StageReport]:
    """Choose the threshold of each stage before the last one for these modalities, of the dearest first."""
    last = [name for name in members if name in pool.weights[modalities]]
    rows = np.flatnonzero(np.logical_and.reduce([logits.available[name] for name in last]))
    stages = [stage for stage in (WORDS, SENTENCES, "text") if stage in pool.weights]
    early = [stage for stage in stages if set(pool.weights[stage]) < set(last)]
    if len(rows) < MIN_ROWS or not early:
        return
    complete = len(last) == len(pool.weights[modalities])
    weights = pool.weights[modalities] if complete else fit_member_weights(last, logits, labels, pool.scales)
    truth = labels[rows]
    pooled = served = softmax(weighted_sum(logits, weights, rows), axis=1)
    for stage in reversed(early):
        scores = softmax(weighted_sum(logits, pool.weights[stage], rows), axis=1)
        report, served = _choose(stage, scores, served, pooled, truth)
        yield replace(report, modalities=modalities)


def _choose(
    stage: str, early: NDArray, served: NDArray, pooled: NDArray, labels: NDArray
) -> tuple[StageReport, NDArray]:
    """Lower the threshold until weighted F1, accuracy or calibration is worse than the whole pool's. (N, K) each

    early: of the stage; served: of the cascade without it; pooled: of all members.
    """
    confidence, rows, whole = early.max(1), np.arange(len(labels)), _quality(pooled, labels)
    points, threshold, harmless, result = [], None, True, served
    for share in np.linspace(0, 1, STEPS + 1)[1:]:
        tried = float(np.quantile(confidence, 1 - share, method="higher"))
        settled = confidence >= tried
        cascade = np.where(settled[:, None], early, served)
        point = CascadePoint(tried, float(settled.mean()), *_quality(cascade, labels))
        points.append(point)
        # by the pool's own probabilities: on few rows, answers that changed may be right by luck
        expected_loss = float((pooled.max(1) - pooled[rows, cascade.argmax(1)]).mean())
        loss = max(expected_loss, whole[0] - point.weighted_f1)
        harmless = harmless and loss <= MAX_F1_LOSS and point.ece <= whole[1] + MAX_ECE_RISE
        if harmless:
            threshold, result = tried, cascade
    return StageReport("", stage, len(labels), *_quality(served, labels), points, threshold), result


def _quality(probabilities: NDArray, labels: NDArray) -> tuple[float, float]:
    return weighted_f1(labels, probabilities.argmax(1)), reliability(probabilities, labels).ece
