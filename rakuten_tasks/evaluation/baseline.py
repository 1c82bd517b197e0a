"""Baselines, fitted on the members' rows: class frequencies, and TF-IDF with a linear SVM."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import FeatureUnion, make_union
from sklearn.svm import LinearSVC

from rakuten_tasks.evaluation.calibration import fit_scale
from rakuten_tasks.evaluation.metrics import MOST_FREQUENT, TFIDF_SVM
from rakuten_tasks.preprocessing.text import clean

MAX_FEATURES = 50_000  # the most frequent n-grams of each kind; bounds memory and time on a full catalogue
FOLDS = 3
ABSENT = -1.0  # the score of a class without rows: the hinge loss' target for rows of other classes


class Baseline(Protocol):
    """A fitted baseline."""

    def probabilities(self, titles: Sequence[str], descriptions: Sequence[str]) -> NDArray:
        """Predict (N,) titles, (N,) descriptions -> (N, K) fp64; each row sums to 1."""
        ...


@dataclass(frozen=True)
class MostFrequent:
    """The classes' shares of the fitted rows, for every product. shares: (K,)"""

    shares: NDArray

    def probabilities(self, titles: Sequence[str], descriptions: Sequence[str]) -> NDArray:
        """Predict (N,) titles, (N,) descriptions -> (N, K) fp64, all rows the same."""
        return np.tile(self.shares, (len(titles), 1))


def fit_most_frequent(
    titles: Sequence[str], descriptions: Sequence[str], labels: NDArray, n_classes: int, seed: int
) -> MostFrequent:
    """Fit on (N,) class indices, N above 0; the other arguments are ignored."""
    return MostFrequent(np.bincount(labels, minlength=n_classes) / len(labels))


@dataclass(frozen=True)
class TfidfSVM:
    """TF-IDF of words and characters, and a linear classifier of each class against the rest.

    scale: softmax(scale * scores) are probabilities.
    """

    features: FeatureUnion
    classifier: LinearSVC
    n_classes: int
    scale: float

    def probabilities(self, titles: Sequence[str], descriptions: Sequence[str]) -> NDArray:
        """Predict (N,) titles, (N,) descriptions -> (N, K) fp64; each row sums to 1."""
        features = self.features.transform(_texts(titles, descriptions))
        return softmax(self.scale * _scores(self.classifier, features, self.n_classes), axis=1)


def fit_tfidf_svm(
    titles: Sequence[str], descriptions: Sequence[str], labels: NDArray, n_classes: int, seed: int
) -> TfidfSVM:
    """Fit on (N,) titles, (N,) descriptions, (N,) class indices of at least two classes.

    N-grams of 1-2 words and of 2-5 characters within words, each block of unit length, at most MAX_FEATURES each.
    """
    union: FeatureUnion = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32),
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=MAX_FEATURES, dtype=np.float32
        ),
    )
    features = sparse.csr_matrix(union.fit_transform(_texts(titles, descriptions)))
    scale = _scale(features, titles, labels, n_classes, seed)
    return TfidfSVM(union, _fit_svm(features, labels, seed), n_classes, scale)


Fit = Callable[[Sequence[str], Sequence[str], NDArray, int, int], Baseline]
BASELINES: dict[str, Fit] = {MOST_FREQUENT: fit_most_frequent, TFIDF_SVM: fit_tfidf_svm}


def _scale(features: sparse.csr_matrix, titles: Sequence[str], labels: NDArray, n_classes: int, seed: int) -> float:
    """Calibrate by maximum likelihood of out-of-fold scores; 1 if there are too few titles for folds.

    Rows of one title are in one fold, or the scores would be overconfident. Rows whose class is missing from the other
    folds are ignored.
    """
    groups = np.unique(np.asarray(titles, dtype=str), return_inverse=True)[1]
    if groups.max() + 1 < FOLDS:
        return 1.0
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, labels, groups)
    scores, truth = [np.zeros((0, n_classes))], [labels[:0]]
    for others, held_out in folds:
        held_out = held_out[np.isin(labels[held_out], labels[others])]
        if len(held_out) and len(np.unique(labels[others])) > 1:
            classifier = _fit_svm(features[others], labels[others], seed)
            scores.append(_scores(classifier, features[held_out], n_classes))
            truth.append(labels[held_out])
    return fit_scale(np.concatenate(scores), np.concatenate(truth))


def _fit_svm(features: sparse.csr_matrix, labels: NDArray, seed: int) -> LinearSVC:
    with warnings.catch_warnings():
        # the gain after 1,000 iterations is not worth the minutes
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # of very many, few rows each
        return LinearSVC(C=1.0, random_state=seed).fit(features, labels)


def _scores(classifier: LinearSVC, features: sparse.csr_matrix, n_classes: int) -> NDArray:
    """Compute scores (N, K); for two classes scikit-learn gives the scores of the second one only."""
    scores = classifier.decision_function(features)
    result = np.full((features.shape[0], n_classes), ABSENT)
    result[:, classifier.classes_] = scores if scores.ndim == 2 else np.stack([-scores, scores], 1)
    return result


def _texts(titles: Sequence[str], descriptions: Sequence[str]) -> list[str]:
    return [clean(f"{title} {description}") for title, description in zip(titles, descriptions, strict=True)]
