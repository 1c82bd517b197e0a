"""Metrics with bootstrap intervals, per class, confusion, reliability, and the gain by photos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.config_base import Strict
from rakuten_tasks.evaluation.bootstrap import (
    MetricCI,
    hard_intervals,
    log_losses,
    mean_intervals,
    paired_interval,
    weighted_f1,
)  # fmt: skip

POOL = "pool"
FULL_POOL = "full_pool"  # of all members, also where an early stage of the cascade settled the product
MOST_FREQUENT, TFIDF_SVM = "most_frequent", "tfidf_svm"  # baselines
BINS = 15
QUARTILES = 4  # of the text's confidence


@dataclass(frozen=True)
class ClassScore(Strict):
    """Metrics of one class. support: its test rows; a ratio without rows is 0."""

    code: int
    f1: float
    precision: float
    recall: float
    support: int


@dataclass(frozen=True)
class Bin(Strict):
    """Rows of similar confidence: the mean of it, the share of correct predictions, the number of rows."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Reliability(Strict):
    """Reliability diagram. ece: mean gap between confidence and accuracy, weighted by rows (arXiv 1706.04599)."""

    bins: list[Bin]  # ascending; without empty ones
    ece: float


@dataclass(frozen=True)
class SystemMetrics(Strict):
    """Metrics of one system on the test rows. Macro F1 is over the classes present in the labels, log loss in nats.

    lead: weighted F1 minus the baseline tfidf_svm's on the same resampled rows; None of that baseline itself, and if it
    was not scored.
    """

    weighted_f1: MetricCI
    macro_f1: MetricCI
    accuracy: MetricCI
    log_loss: MetricCI
    lead: MetricCI | None
    classes: list[ClassScore]
    reliability: Reliability

    @property
    def metrics(self) -> tuple[MetricCI, ...]:
        """In the order of Evaluation.METRICS."""
        return self.weighted_f1, self.macro_f1, self.accuracy, self.log_loss

    def cells(self) -> list[str]:
        """Return a table row: each metric with its interval, the ECE, the lead."""
        return [*map(str, self.metrics), f"{self.reliability.ece:.3f}", self.lead.signed() if self.lead else ""]


@dataclass(frozen=True)
class PhotoGain(Strict):
    """Test rows for which the pool without photos has a confidence from `low` to `high`.

    Accuracy and weighted F1 of the pool without photos (text_), and with them.
    """

    rows: int
    low: float
    high: float
    text_accuracy: float
    accuracy: float
    text_weighted_f1: float
    weighted_f1: float


@dataclass(frozen=True)
class Evaluation(Strict):
    """All metrics on the test rows."""

    METRICS: ClassVar = ("weighted_f1", "macro_f1", "accuracy", "log_loss")

    n: int
    codes: list[int]
    systems: dict[str, SystemMetrics]  # members, the pool, baselines
    confusion: list[list[int]]  # (K, K) of the pool: rows true, columns predicted
    photo_gain: list[PhotoGain] = field(default_factory=list)  # by confidence; empty without text or photos
    photos_skipped: float = 0.0  # share of the test rows' photos that the pool did not look at

    @property
    def ece(self) -> float:
        """Expected calibration error of the pool."""
        return self.systems[POOL].reliability.ece

    def summary(self) -> dict[str, float]:
        """List metrics by name, for MLflow."""
        values = {f"{n}_{m}": getattr(s, m).value for n, s in self.systems.items() for m in self.METRICS}
        return {**values, "pool_ece": self.ece, "test_rows": self.n, "photos_skipped": self.photos_skipped}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the JSON of `to_dict`."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


def evaluate(
    probabilities: Mapping[str, NDArray],
    labels: NDArray,
    codes: Sequence[int],
    seed: int,
    text_pool: NDArray | None = None,
    photos_skipped: float = 0.0,
) -> Evaluation:
    """Score each system, one of them named "pool", on the same rows.

    probabilities: (N, K) by system; labels: (N,) class indices; codes: the K codes in the order of the columns.
    text_pool: (N, K) of the pool without photos; None if there is no text member, or no photo member. photos_skipped:
    see Evaluation.
    Raises ValueError if N is 0, KeyError if no system is named "pool".
    """
    if not len(labels):
        raise ValueError("no test row has a label: give the catalogue more titles, or the test split a larger share")
    predicted = {name: scores.argmax(1) for name, scores in probabilities.items()}
    losses = mean_intervals({name: log_losses(scores, labels) for name, scores in probabilities.items()}, seed)
    systems = {}
    for name, scores in probabilities.items():
        baseline = predicted.get(TFIDF_SVM) if name != TFIDF_SVM else None
        systems[name] = SystemMetrics(
            **hard_intervals(labels, predicted[name], len(codes), seed),
            log_loss=losses[name],
            lead=None if baseline is None else paired_interval(labels, predicted[name], baseline, seed),
            classes=_classes(labels, predicted[name], codes),
            reliability=reliability(scores, labels),
        )
    from sklearn.metrics import confusion_matrix  # not at the top: pods that only read an Evaluation would import it

    confusion = confusion_matrix(labels, predicted[POOL], labels=np.arange(len(codes))).tolist()
    gain = [] if text_pool is None else photo_gain(text_pool, probabilities[POOL], labels)
    return Evaluation(len(labels), [int(code) for code in codes], systems, confusion, gain, photos_skipped)


def _classes(labels: NDArray, predicted: NDArray, codes: Sequence[int]) -> list[ClassScore]:
    from sklearn.metrics import precision_recall_fscore_support

    by_class = precision_recall_fscore_support(labels, predicted, labels=np.arange(len(codes)), zero_division=0)
    return [
        ClassScore(int(code), float(f1), float(precision), float(recall), int(support))
        for code, precision, recall, f1, support in zip(codes, *by_class, strict=True)
    ]


def reliability(probabilities: NDArray, labels: NDArray) -> Reliability:
    """Compute (N, K), (N,) class indices -> BINS bins of equal width by confidence, and the ECE."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    used = counts > 0
    mean = np.bincount(index, confidence, BINS)[used] / counts[used]
    accuracy = np.bincount(index, correct, BINS)[used] / counts[used]
    bins = [Bin(float(m), float(a), int(c)) for m, a, c in zip(mean, accuracy, counts[used], strict=True)]
    return Reliability(bins, float(np.average(np.abs(mean - accuracy), weights=counts[used])))


def photo_gain(text_pool: NDArray, pool: NDArray, labels: NDArray) -> list[PhotoGain]:
    """Compare (N, K) without photos, (N, K) with them, (N,) labels -> quarters of the rows by the text's confidence."""
    confidence = text_pool.max(1)
    text, both = text_pool.argmax(1), pool.argmax(1)
    parts = np.array_split(np.argsort(confidence, kind="stable"), QUARTILES)
    return [
        PhotoGain(
            rows=len(rows),
            low=float(confidence[rows[0]]),
            high=float(confidence[rows[-1]]),
            text_accuracy=float((text[rows] == labels[rows]).mean()),
            accuracy=float((both[rows] == labels[rows]).mean()),
            text_weighted_f1=weighted_f1(labels[rows], text[rows]),
            weighted_f1=weighted_f1(labels[rows], both[rows]),
        )
        for rows in parts
        if len(rows)
    ]
