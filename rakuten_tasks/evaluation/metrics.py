"""Metrics with bootstrap intervals, per class, confusion, reliability, and what photos add."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from rakuten_tasks.config import Strict
from rakuten_tasks.evaluation.bootstrap import (
    MetricCI,
    hard_intervals,
    log_losses,
    mean_intervals,
    paired_differences,
    paired_interval,
    weighted_f1,
)

__all__ = [
    "Evaluation",
    "MetricCI",
    "evaluate",
    "paired_differences",
    "photo_gain",
    "reliability",
    "score_against_labels",
    "table",
]

POOL = "pool"
MOST_FREQUENT, TFIDF_SVM = "most_frequent", "tfidf_svm"  # baselines
BINS = 15
PARTS = 4  # quartiles of the text's confidence


@dataclass(frozen=True)
class ClassScore(Strict):
    """One class. support: test rows that are of it; a ratio without rows is 0."""

    code: int
    f1: float
    precision: float
    recall: float
    support: int


@dataclass(frozen=True)
class Bin(Strict):
    """Rows of similar confidence: its mean, how many of them were right (a share), how many they are."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Reliability(Strict):
    """Does a confidence of 0.8 mean right in 80 %? ece: the mean gap, weighted by rows (arXiv 1706.04599)."""

    bins: list[Bin]  # ascending; those without rows are left out
    ece: float


@dataclass(frozen=True)
class SystemMetrics(Strict):
    """One system on the test rows. Macro F1 is over the classes present in the labels, log loss in nats.

    lead: weighted F1 above the baseline tfidf_svm's on the same resampled rows; None of that baseline itself, and
    where it was not scored.
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


@dataclass(frozen=True)
class PhotoGain(Strict):
    """Test rows of which the text alone is about as sure: from `low` to `high`, its confidence.

    Accuracy and weighted F1 of the pool with photos masked, and of the pool as it is.
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
    """What the test rows showed."""

    METRICS: ClassVar = ("weighted_f1", "macro_f1", "accuracy", "log_loss")

    n: int
    codes: list[int]
    systems: dict[str, SystemMetrics]  # members, the pool, baselines
    confusion: list[list[int]]  # (K, K) of the pool: rows true, columns predicted
    photo_gain: list[PhotoGain] = field(default_factory=list)  # least sure text first; empty: no text, or no photos

    @property
    def ece(self) -> float:
        """Expected calibration error of the pool."""
        return self.systems[POOL].reliability.ece

    def summary(self) -> dict[str, float]:
        """One number a metric, by system: what MLflow shows."""
        values = {f"{n}_{m}": getattr(s, m).value for n, s in self.systems.items() for m in self.METRICS}
        return {**values, "pool_ece": self.ece, "test_rows": self.n}

    @classmethod
    def load(cls, path: Path) -> Self:
        """The JSON that `to_dict` was written as."""
        return cls.from_dict(json.loads(path.read_text()))


def evaluate(
    probabilities: Mapping[str, NDArray],
    labels: NDArray,
    codes: Sequence[int],
    seed: int,
    text_pool: NDArray | None = None,
) -> Evaluation:
    """Score each system, one of them named "pool", on the same rows.

    probabilities: (N, K) by system; labels: (N,) class indices; codes: the K codes in the order of the columns.
    text_pool: (N, K) of the pool with photos masked; None where there is no text member, or no photo member.
    Raises ValueError if N is 0, KeyError if no system is named "pool".
    """
    if not len(labels):
        raise ValueError("no test row has a label: give the catalogue more titles, or the test split a larger share")
    predicted = {name: scores.argmax(1) for name, scores in probabilities.items()}
    losses = mean_intervals({name: log_losses(scores, labels) for name, scores in probabilities.items()}, seed)
    systems = {}
    for name, scores in probabilities.items():
        rival = predicted.get(TFIDF_SVM) if name != TFIDF_SVM else None
        systems[name] = SystemMetrics(
            **hard_intervals(labels, predicted[name], len(codes), seed),
            log_loss=losses[name],
            lead=None if rival is None else paired_interval(labels, predicted[name], rival, seed),
            classes=_classes(labels, predicted[name], codes),
            reliability=reliability(scores, labels),
        )
    confusion = confusion_matrix(labels, predicted[POOL], labels=np.arange(len(codes))).tolist()
    gain = [] if text_pool is None else photo_gain(text_pool, probabilities[POOL], labels)
    return Evaluation(len(labels), [int(code) for code in codes], systems, confusion, gain)


def _classes(labels: NDArray, predicted: NDArray, codes: Sequence[int]) -> list[ClassScore]:
    by_class = precision_recall_fscore_support(labels, predicted, labels=np.arange(len(codes)), zero_division=0)
    return [
        ClassScore(int(code), float(f1), float(precision), float(recall), int(support))
        for code, precision, recall, f1, support in zip(codes, *by_class, strict=True)
    ]


def reliability(probabilities: NDArray, labels: NDArray) -> Reliability:
    """(N, K), (N,) class indices -> BINS bins of equal width by confidence, and their mean gap."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    used = counts > 0
    mean = np.bincount(place, confidence, BINS)[used] / counts[used]
    accuracy = np.bincount(place, right, BINS)[used] / counts[used]
    bins = [Bin(float(m), float(a), int(c)) for m, a, c in zip(mean, accuracy, counts[used], strict=True)]
    return Reliability(bins, float(np.average(np.abs(mean - accuracy), weights=counts[used])))


def photo_gain(text_pool: NDArray, pool: NDArray, labels: NDArray) -> list[PhotoGain]:
    """(N, K) with photos masked, (N, K) as they are, (N,) -> quarters of the rows by the text's confidence."""
    confidence = text_pool.max(1)
    text, both = text_pool.argmax(1), pool.argmax(1)
    parts = np.array_split(np.argsort(confidence, kind="stable"), PARTS)
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


def table(evaluation: Evaluation, title: str = "Test rows, with 95 % bootstrap intervals") -> Table:
    """The one table of a training: a row a system, a column a metric; its macro F1, accuracy and log loss are bare."""
    result = _table(title, f"{evaluation.n} rows; log loss in nats; last column: on the same resamples of the rows")
    for heading in ("weighted F1", "macro F1", "accuracy", "log loss", "ECE", f"weighted F1 - {TFIDF_SVM}'s"):
        result.add_column(heading, no_wrap="F1" not in heading or heading == "macro F1")
    for name, system in evaluation.systems.items():
        first, *others = system.metrics
        bare = [f"{value:.3f}" for value in (*(metric.value for metric in others), system.reliability.ece)]
        result.add_row(name, str(first), *bare, system.lead.signed() if system.lead else "")
    return result


def _table(title: str, caption: str) -> Table:
    # without a frame, or the intervals wrap
    result = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    result.add_column("", no_wrap=True)
    return result


def score_against_labels(answered: Mapping[str, pd.Series], answers: pd.Series) -> Table:
    """Codes by row, of each system, against the catalogue's own answers (code by row) where there are both.

    A number behind a name: how many rows it answered, where that is not all.
    """
    result = _table("against the catalogue's own answers", caption=f"{len(answers)} answers")
    for heading in ("weighted F1", "macro F1", "accuracy"):
        result.add_column(heading)
    for name, predicted in answered.items():
        both = predicted.dropna().index.intersection(answers.index)
        codes, indices = np.unique([answers[both], predicted[both]], return_inverse=True)
        labels, guesses = indices.reshape(2, -1)
        metrics = hard_intervals(labels, guesses, len(codes), seed=0)
        rows = "" if len(both) == len(answers) else f" ({len(both)})"
        result.add_row(f"{name}{rows}", *map(str, metrics.values()))
    return result
