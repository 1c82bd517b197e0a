"""Domain classifier: the AUC of a model that tells reference from window on rows it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MAX_ROWS = 5_000  # rows of a side: more would take longer and change little
MAX_VALUE = 1e9  # its square is a number still


@dataclass(frozen=True)
class DomainAUC:
    """auc: 0.5 where reference and window cannot be told apart. p: of an AUC as large by chance, one-sided."""

    auc: float
    p: float


def numeric_auc(reference: NDArray, window: NDArray, least: int) -> DomainAUC | str:
    """(N, E) and (M, E), NaN where not known -> separation, or why there is none. least: known rows on each side."""
    # of the columns that most rows have (text alone where photos are rare) only whole rows: how many products lack a
    # photo is another column's affair
    known = np.all([np.isfinite(side).mean(0) >= 0.5 for side in (reference, window) if len(side)], 0)
    whole = [
        side[np.isfinite(side[:, known]).all(1)][:, known] if known.any() else side[:0] for side in (reference, window)
    ]
    if few := _sample_rows([len(side) for side in whole], least):
        return few
    first, second = (_draw(side.clip(-MAX_VALUE, MAX_VALUE), seed) for seed, side in enumerate(whole))
    middle = first.mean(0)
    # squares too, so that a change of spread shows and not only one of place
    features = [np.concatenate([side, (side - middle) ** 2], 1) for side in (first, second)]  # (N, 2E)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return _separation(features[0], features[1], model)


def text_auc(reference: Sequence[str], window: Sequence[str], least: int) -> DomainAUC | str:
    """As numeric_auc, by their words."""
    if few := _sample_rows([len(reference), len(window)], least):
        return few
    first, second = (_draw(np.array(side, dtype=object), seed) for seed, side in enumerate((reference, window)))
    words = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True)
    return _separation(first, second, make_pipeline(words, LogisticRegression(class_weight="balanced")))


def _sample_rows(sizes: Sequence[int], least: int) -> str:
    return next(
        (
            f"the {side} has {size} usable values, and needs {least}"
            for side, size in zip(("reference", "window"), sizes, strict=True)
            if size < least
        ),
        "",
    )


def _draw(rows: NDArray, seed: int) -> NDArray:
    """At most MAX_ROWS of them, in an order of chance: the first half is trained on."""
    return rows[np.random.default_rng(seed).permutation(len(rows))[:MAX_ROWS]]


def _separation(reference: NDArray, window: NDArray, model: Any) -> DomainAUC | str:
    halves = [(side[: len(side) // 2], side[len(side) // 2 :]) for side in (reference, window)]
    train = np.concatenate([half for half, _ in halves])
    labels = np.repeat([0, 1], [len(half) for half, _ in halves])
    try:
        model.fit(train, labels)
    except ValueError:  # texts without any word
        return "there is no word in it"
    judged = [model.decision_function(half) for _, half in halves]
    found = mannwhitneyu(judged[1], judged[0], alternative="greater", method="asymptotic")
    return DomainAUC(float(found.statistic / (len(judged[0]) * len(judged[1]))), float(found.pvalue))
