"""The promotion gate: decides whether a new version becomes champion automatically, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.evaluation.bootstrap import paired_bootstrap

DECISION = "gate_decision"  # tag of a version: its GateDecision as JSON


@dataclass(frozen=True)
class GateDecision(Strict):
    """Decision, a sentence for people, and the figures behind it, all measured on the same test rows.

    Figures are None if there was nothing to compare with. worst_class: the code that lost most F1 against the
    incumbent among the classes with enough test rows; worst_class_loss: how much, negative if even that class gained.
    """

    passed: bool
    reason: str
    new_f1: float
    incumbent_f1: float | None = None
    best_f1: float | None = None
    probability: float | None = None  # that the new one is no more than max_f1_loss below both rivals
    worst_class: int | None = None
    worst_class_loss: float | None = None


def decide(
    labels: NDArray,
    predicted_new: NDArray,
    predicted_incumbent: NDArray | None,
    predicted_best: NDArray | None,
    codes_new: Sequence[int],
    codes_incumbent: Sequence[int] | None,
    config: GateConfig,
    seed: int,
) -> GateDecision:
    """Compare a new version with the champion (incumbent) and the best champion so far, on the same test rows.

    labels and predictions: codes (N,), int64; a prediction is None if there is no such rival, or it has other labels.
    codes_incumbent: None if there is no champion yet. seed: of the bootstrap; same seed, same decision.
    """
    new_f1 = _weighted_f1(labels, predicted_new)
    if codes_incumbent is None:
        return GateDecision(True, f"first version: weighted F1 {new_f1:.4f}, no champion to compare with", new_f1)
    if set(codes_new) != set(codes_incumbent):
        return GateDecision(False, _other_labels(codes_new, codes_incumbent), new_f1)
    if predicted_incumbent is None:
        raise ValueError("no predictions of the incumbent, whose label set is the same: score it on the test rows")
    champion = _compare("the champion", labels, predicted_new, predicted_incumbent, config, seed)
    best = champion
    if predicted_best is not None:
        best = _compare("the best champion so far", labels, predicted_new, predicted_best, config, seed)
    losses = class_losses(labels, predicted_new, predicted_incumbent, config.min_class_rows)
    stricter = min(champion, best, key=lambda rival: rival.probability)
    violations = _violations(stricter.probability, losses, config)
    worst = max(losses, key=lambda code: losses[code], default=None)
    return GateDecision(
        passed=not violations,
        reason=_reason(new_f1, stricter, violations, config),
        new_f1=new_f1,
        incumbent_f1=champion.f1,
        best_f1=None if predicted_best is None else best.f1,
        probability=stricter.probability,
        worst_class=worst,
        worst_class_loss=None if worst is None else losses[worst],
    )


@dataclass(frozen=True)
class _Rival:
    """Version that the new one is compared with. probability: that the new one is at most max_f1_loss below."""

    name: str
    f1: float
    probability: float


def _compare(name: str, labels: NDArray, new: NDArray, old: NDArray, config: GateConfig, seed: int) -> _Rival:
    return _Rival(name, _weighted_f1(labels, old), paired_bootstrap(labels, new, old, config.max_f1_loss, seed))


def _reason(new_f1: float, rival: _Rival, violations: Sequence[str], config: GateConfig) -> str:
    figures = (
        f"weighted F1 {new_f1:.4f} against {rival.f1:.4f} of {rival.name}, "
        f"no more than {config.max_f1_loss} below it with probability {rival.probability:.3f}"
    )
    return "; ".join([f"{'refused' if violations else 'passed'}: {figures}", *violations])


def _violations(probability: float, losses: dict[int, float], config: GateConfig) -> list[str]:
    violations = []
    if probability < config.min_probability:
        violations.append(f"the probability must be {config.min_probability} or more")
    for code, loss in losses.items():
        if loss > config.max_class_loss:
            violations.append(
                f"class {code} loses {loss:.3f} F1 against the champion, {config.max_class_loss} is allowed"
            )
    return violations


def _weighted_f1(labels: NDArray, predicted: NDArray) -> float:
    from sklearn.metrics import f1_score  # not at the top: every pod that reads a GateDecision would import it

    return float(f1_score(labels, predicted, average="weighted", zero_division=0))


def class_losses(labels: NDArray, new: NDArray, incumbent: NDArray, min_rows: int) -> dict[int, float]:
    """Return the F1 lost, by code, of the classes with at least min_rows test rows."""
    codes, rows = np.unique(labels, return_counts=True)
    counted = codes[rows >= min_rows]
    if not len(counted):
        return {}
    from sklearn.metrics import f1_score

    before, after = (f1_score(labels, p, labels=counted, average=None, zero_division=0) for p in (incumbent, new))
    return {int(code): float(loss) for code, loss in zip(counted, before - after, strict=True)}


def _other_labels(new: Sequence[int], incumbent: Sequence[int]) -> str:
    added, removed = sorted(set(new) - set(incumbent)), sorted(set(incumbent) - set(new))
    changes = [f"{word} {', '.join(map(str, codes))}" for word, codes in (("new", added), ("gone", removed)) if codes]
    return f"refused: other classes than the champion's ({'; '.join(changes)}): promote it by hand if that is meant"
