"""Report of the pool: each member alone, the pool without it, and its weight."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.config_base import Strict
from rakuten_tasks.evaluation.bootstrap import log_losses, weighted_f1
from rakuten_tasks.evaluation.metrics import reliability
from rakuten_tasks.models.cascade import StageReport
from rakuten_tasks.models.pool import Logits, Pool, fit_pool


@dataclass(frozen=True)
class Quality(Strict):
    """Metrics of probabilities. log_loss: mean, in nats; ece: expected calibration error."""

    weighted_f1: float
    log_loss: float
    ece: float


@dataclass(frozen=True)
class MemberReport(Strict):
    """One member of the pool.

    scored: rows that it scored without being trained on them. alone: of its calibrated probabilities. without: of the
    pool of the other members, its weights fitted again; None of a pool's only member. Both are None if no row was
    compared.
    """

    modality: str
    scored: int
    alone: Quality | None
    without: Quality | None


@dataclass(frozen=True)
class PoolReport(Strict):
    """Metrics of the pool and its members on the rows that every member scored without being trained on them.

    Members without such rows are ignored, and have no metrics. The pool's weights were fitted on these rows too.
    weights: see `relative_weights`. stages: of the cascade.
    """

    rows: int
    pool: Quality | None
    members: dict[str, MemberReport]
    weights: dict[str, dict[str, float]]
    stages: list[StageReport] = field(default_factory=list)

    @property
    def best(self) -> str | None:
        """The member with the least log loss alone."""
        compared = {name: member.alone.log_loss for name, member in self.members.items() if member.alone}
        return min(compared, key=lambda name: compared[name], default=None)

    def adds(self, name: str) -> tuple[float, float] | None:
        """Return the improvement by a member: the fall of the log loss in nats, and the rise of the weighted F1."""
        without = self.members[name].without
        if self.pool is None or without is None:
            return None
        return without.log_loss - self.pool.log_loss, self.pool.weighted_f1 - without.weighted_f1

    def metrics(self, pool: Pool) -> dict[str, float]:
        """List for MLflow the pool's weights, and by stage the threshold, if it has one, and the share it settles."""
        values = {f"weight_{name}_{key}": w for key, weights in pool.weights.items() for name, w in weights.items()}
        for report in self.stages:
            if point := report.chosen:
                name = f"{report.stage}_{report.modalities}"
                values |= {f"threshold_{name}": point.threshold, f"coverage_{name}": point.coverage}
        return {name.replace("+", "_"): value for name, value in values.items()}


def report_pool(pool: Pool, logits: Logits, labels: NDArray, stages: Sequence[StageReport] = ()) -> PoolReport:
    """Compare the pool with each member, and with the pool of the others. Arguments as of `fit_pool`."""
    names = list(logits.by_member)
    scored = {name: int(logits.available[name].sum()) for name in names}
    masks = [logits.available[name] for name in names if scored[name]]
    rows = np.flatnonzero(np.logical_and.reduce(masks)) if masks else np.zeros(0, int)
    common, truth = logits.take(rows), labels[rows]
    members = {}
    for name in names:
        others = [other for other in names if other != name]
        compared = bool(len(rows) and scored[name])
        members[name] = MemberReport(
            modality=pool.modality[name],
            scored=scored[name],
            alone=_quality(pool.alone(common, name), truth) if compared else None,
            without=_fit_others(others, pool, logits, labels, rows) if compared and others else None,
        )
    quality = _quality(pool.probabilities(common), truth) if len(rows) else None
    return PoolReport(len(rows), quality, members, relative_weights(pool), list(stages))


def _fit_others(others: Collection[str], pool: Pool, logits: Logits, labels: NDArray, rows: NDArray) -> Quality:
    subset = Logits(
        {name: logits.by_member[name] for name in others}, {name: logits.available[name] for name in others}
    )
    modality = {name: pool.modality[name] for name in others}
    smaller = fit_pool(subset, labels, modality, np.array(pool.prior))
    return _quality(smaller.probabilities(subset.take(rows)), labels[rows])


def _quality(probabilities: NDArray, labels: NDArray) -> Quality:
    return Quality(
        weighted_f1(labels, probabilities.argmax(1)),
        float(log_losses(probabilities, labels).mean()),
        reliability(probabilities, labels).ece,
    )


def relative_weights(pool: Pool) -> dict[str, dict[str, float]]:
    """Divide the pool's weights by those that calibrate members alone: 1 means as confident as alone.

    A member whose scores contain no information has scale 0, and weight 0 too.
    """
    return {
        kinds: {name: weight / pool.scales[name] if pool.scales[name] else 0.0 for name, weight in weights.items()}
        for kinds, weights in pool.weights.items()
    }
