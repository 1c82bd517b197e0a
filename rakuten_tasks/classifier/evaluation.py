"""How good the answers are: metrics with bootstrap intervals, per class, confusion, reliability."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from rakuten_tasks.config import Strict

FUSED = "fused"
RESAMPLES = 1000
BINS = 15


@dataclass(frozen=True)
class Interval(Strict):
    """A metric and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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
class System(Strict):
    """One system on the test rows. Macro F1 is over the classes present in the labels."""

    weighted_f1: Interval
    macro_f1: Interval
    accuracy: Interval
    classes: list[ClassScore]
    reliability: Reliability

    @property
    def metrics(self) -> tuple[Interval, ...]:
        """In the order of Evaluation.METRICS."""
        return self.weighted_f1, self.macro_f1, self.accuracy


@dataclass(frozen=True)
class Evaluation(Strict):
    """What the test rows showed."""

    METRICS: ClassVar = ("weighted_f1", "macro_f1", "accuracy")

    n: int
    codes: list[int]
    systems: dict[str, System]
    confusion: list[list[int]]  # (K, K) of the fused system: rows true, columns predicted

    @property
    def ece(self) -> float:
        """Expected calibration error of the fused probability."""
        return self.systems[FUSED].reliability.ece

    def summary(self) -> dict[str, float]:
        """One number a metric, by system: what MLflow shows."""
        values = {f"{n}_{m}": getattr(s, m).value for n, s in self.systems.items() for m in self.METRICS}
        return {**values, "fused_ece": self.ece, "test_rows": self.n}

    @classmethod
    def load(cls, path: Path) -> Self:
        """The JSON that `to_dict` was written as."""
        return cls.from_dict(json.loads(path.read_text()))


def evaluate(probabilities: Mapping[str, NDArray], labels: NDArray, codes: Sequence[int], seed: int) -> Evaluation:
    """Score each system, one of them named "fused", on the same rows.

    probabilities: (N, K) by system name; labels: (N,) class indices; codes: the K codes in the order of the columns.
    Raises ValueError if N is 0.
    """
    if not len(labels):
        raise ValueError("no test row has a label: give the catalogue more titles, or the test side a larger share")
    classes = np.arange(len(codes))
    systems = {name: _system(scores, labels, codes, seed) for name, scores in probabilities.items()}
    confusion = confusion_matrix(labels, probabilities[FUSED].argmax(1), labels=classes)
    return Evaluation(len(labels), [int(code) for code in codes], systems, confusion.tolist())


def _system(probabilities: NDArray, labels: NDArray, codes: Sequence[int], seed: int) -> System:
    predicted = probabilities.argmax(1)
    metrics = _intervals(labels, predicted, len(codes), seed)
    by_class = precision_recall_fscore_support(labels, predicted, labels=np.arange(len(codes)), zero_division=0)
    classes = [
        ClassScore(int(code), float(f1), float(precision), float(recall), int(support))
        for code, precision, recall, f1, support in zip(codes, *by_class, strict=True)
    ]
    return System(**metrics, classes=classes, reliability=reliability(probabilities, labels))


def _intervals(labels: NDArray, predicted: NDArray, classes: int, seed: int) -> dict[str, Interval]:
    cells, counts, resampled = _resample(np.stack([labels, predicted], 1), seed, RESAMPLES)
    once = _scores(counts[None], cells[:, 0], cells[:, 1], classes)
    many = _scores(resampled, cells[:, 0], cells[:, 1], classes)
    return {name: Interval(float(once[name][0]), *map(float, np.quantile(many[name], (0.025, 0.975)))) for name in once}


def _resample(rows: NDArray, seed: int, resamples: int) -> tuple[NDArray, NDArray, NDArray]:
    """Bootstrap of rows (N, m) that differ in few ways only, called cells, at the cost of the cells, not the rows.

    -> cells (C, m), rows in each (C,), and in each resample (R, C): N draws with replacement are a multinomial draw.
    """
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=resamples)
    return cells, counts, draws


def _scores(counts: NDArray, labels: NDArray, predicted: NDArray, classes: int) -> dict[str, NDArray]:
    """(R, C) rows in each cell, (C,), (C,) class indices of the cells -> each metric (R,)."""
    one_hot = np.eye(classes)
    true = counts @ one_hot[labels]  # (R, C) @ (C, K) -> (R, K)
    claimed = counts @ one_hot[predicted]  # (R, K)
    hit = counts @ (one_hot[labels] * (labels == predicted)[:, None])  # (R, K)
    f1 = 2 * hit / np.maximum(true + claimed, 1)  # (R, K)
    rows = true.sum(1)  # (R,)
    return {
        "weighted_f1": (f1 * true).sum(1) / rows,
        "macro_f1": (f1 * (true > 0)).sum(1) / (true > 0).sum(1),
        "accuracy": hit.sum(1) / rows,
    }


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


def f1_standard_error(labels: NDArray, predicted: NDArray, seed: int, resamples: int = RESAMPLES) -> float:
    """Bootstrap standard error of weighted F1. (N,), (N,) class indices, N above 0."""
    cells, _, resampled = _resample(np.stack([labels, predicted], 1), seed, resamples)
    return float(_scores(resampled, cells[:, 0], cells[:, 1], int(cells.max()) + 1)["weighted_f1"].std())


def paired_differences(
    labels: NDArray, predicted_new: NDArray, predicted_old: NDArray, seed: int, resamples: int = 2000
) -> NDArray:
    """How much the new predictions' weighted F1 is above that of the old, in each resample. (resamples,)

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
    """The probability that the new predictions' weighted F1 is no more than `margin` below that of the old.

    Rows as for paired_differences.
    """
    return float(np.mean(paired_differences(labels, predicted_new, predicted_old, seed, resamples) >= -margin))


def table(evaluation: Evaluation, title: str = "Test rows, with 95 % bootstrap intervals") -> Table:
    """The one table of a training: a row a system, a column a metric."""
    result = _table(title, caption=f"{evaluation.n} rows")
    for name, system in evaluation.systems.items():
        result.add_row(name, *map(str, system.metrics))
    return result


def _table(title: str, caption: str) -> Table:
    # Without a frame, or the intervals wrap on 80 columns.
    result = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("", "weighted F1", "macro F1", "accuracy"):
        result.add_column(heading)
    return result


def against_answers(answered: Mapping[str, pd.Series], answers: pd.Series) -> Table:
    """Codes by row, of each system, against the catalogue's own answers (code by row) where there are both.

    A number behind a name: how many rows it answered, where that is not all.
    """
    result = _table("against the catalogue's own answers", caption=f"{len(answers)} answers")
    for name, predicted in answered.items():
        both = predicted.dropna().index.intersection(answers.index)
        codes, indices = np.unique([answers[both], predicted[both]], return_inverse=True)
        labels, guesses = indices.reshape(2, -1)
        metrics = _intervals(labels, guesses, len(codes), seed=0)
        rows = "" if len(both) == len(answers) else f" ({len(both)})"
        result.add_row(f"{name}{rows}", *map(str, metrics.values()))
    return result
