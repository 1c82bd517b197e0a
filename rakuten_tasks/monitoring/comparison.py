"""The drift report as data: the decision, and the accuracy on either side."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from rakuten_tasks.config import Strict
from rakuten_tasks.monitoring.decision import Decision
from rakuten_tasks.monitoring.values import categories, numbers


@dataclass(frozen=True)
class Accuracy(Strict):
    """estimated: the mean calibrated confidence (CBPE). real: share of right answers, with its 95 % interval, of the
    `labelled` rows whose label is known; None where none is.
    """

    estimated: float | None
    real: float | None
    low: float | None
    high: float | None
    labelled: int


@dataclass(frozen=True)
class DriftReport(Strict):
    """Everything in drift_report.json. What was compared, in words; accuracy of either side; the decision."""

    reference: str
    window: str
    written: str  # UTC, ISO 8601
    decision: Decision
    reference_accuracy: Accuracy
    window_accuracy: Accuracy


def accuracy_of(rows: pd.DataFrame, labels: str) -> Accuracy:
    """labels: the column of true codes; it may be missing, or be filled in part."""
    confidence = numbers(rows["confidence"]).dropna() if "confidence" in rows else pd.Series(dtype=float)
    # confidence is a probability: anything else is no estimate
    confidence = confidence[confidence.between(0, 1)]
    estimated = float(confidence.mean()) if len(confidence) else None
    if not {"predicted", labels} <= set(rows.columns):
        return Accuracy(estimated, None, None, None, 0)
    pairs = pd.DataFrame({name: categories(rows[name]) for name in ("predicted", labels)}).dropna()
    if pairs.empty:
        return Accuracy(estimated, None, None, None, 0)
    right = int((pairs["predicted"] == pairs[labels]).sum())
    low, high = proportion_confint(right, len(pairs), method="wilson")
    return Accuracy(estimated, right / len(pairs), float(low), float(high), len(pairs))
