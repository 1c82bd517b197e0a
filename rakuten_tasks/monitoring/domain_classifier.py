"""Domain classifier: the AUC of a model that separates reference from window on rows it was not trained on.

The AUC is 0.5 if the two cannot be told apart. Its p-value is one-sided: the chance of an AUC at least as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rakuten_tasks.monitoring.values import UntestableColumnError, require_values

MAX_ROWS = 5_000  # rows of each domain: more take longer and change little
MAX_VALUE = 1e9  # its square does not overflow


def numeric_auc(reference: NDArray, window: NDArray, least: int) -> tuple[float, float]:
    """Return AUC and p-value of (N, E) and (M, E) values, NaN if unknown. Raises as `require_values` for `least`."""
    domains = (reference, window)
    # Only rows that are complete in the columns that are filled most often, or half as often (text alone if photos are
    # rare): the share of products without a photo is tested as a column of its own
    filled = np.min([np.isfinite(rows).mean(0) for rows in domains if len(rows)], 0)
    common = filled >= filled.max() / 2
    complete = [rows[np.isfinite(rows[:, common]).all(1)][:, common] for rows in domains]
    require_values(complete[0], complete[1], least)
    samples = [_shuffle(rows.clip(-MAX_VALUE, MAX_VALUE), seed) for seed, rows in enumerate(complete)]
    centre = samples[0].mean(0)
    # squares too, so that a change of variance is found and not only a shift
    features = [np.concatenate([rows, (rows - centre) ** 2], 1) for rows in samples]  # (N, 2E), (M, 2E)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    return _held_out_auc(features[0], features[1], model)


def text_auc(reference: Sequence[str], window: Sequence[str], least: int) -> tuple[float, float]:
    """Return AUC and p-value by the words of texts. Raises UntestableColumnError if texts or words are too few."""
    require_values(reference, window, least)
    samples = [_shuffle(np.array(texts, dtype=object), seed) for seed, texts in enumerate((reference, window))]
    words = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True)
    return _held_out_auc(samples[0], samples[1], make_pipeline(words, LogisticRegression(class_weight="balanced")))


def _shuffle(rows: NDArray, seed: int) -> NDArray:
    """Draw at most MAX_ROWS rows in random order: the first half is for training."""
    return rows[np.random.default_rng(seed).permutation(len(rows))[:MAX_ROWS]]


def _held_out_auc(reference: NDArray, window: NDArray, model: Any) -> tuple[float, float]:
    """Train on the first half of each, and score the second."""
    halves = [(rows[: len(rows) // 2], rows[len(rows) // 2 :]) for rows in (reference, window)]
    train = np.concatenate([half for half, _ in halves])
    labels = np.repeat([0, 1], [len(half) for half, _ in halves])
    try:
        model.fit(train, labels)
    except ValueError as error:  # the texts have no words
        raise UntestableColumnError("its texts have no words") from error
    scores = [model.decision_function(half) for _, half in halves]
    test = mannwhitneyu(scores[1], scores[0], alternative="greater", method="asymptotic")
    return float(test.statistic / (len(scores[0]) * len(scores[1]))), float(test.pvalue)
