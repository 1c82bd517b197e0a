"""Weights of scores by maximum likelihood: of one system, its calibration; of several, their log-linear pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

# A fit is held near members of equal weight, each calibrated alone, as if by this many more rows.
PRIOR_ROWS = 10
LARGEST_WEIGHT = 100.0  # a member that is always right ends there, not at infinity


def fit_weights(scores: NDArray, labels: NDArray) -> NDArray:
    """Weights of M calibrated members that give N rows' labels the highest likelihood. (M, N, K), (N,) -> (M,)

    All are 1 / M where there are no rows. Convex, so the same optimum from wherever it starts.
    """
    members = len(scores)
    equal = np.full(members, 1 / members)
    if not len(labels):
        return equal
    target = softmax(np.tensordot(equal, scores, 1), axis=1) * (PRIOR_ROWS / len(labels))
    target[np.arange(len(labels)), labels] += 1
    mass, flat = target.sum(1, keepdims=True), scores.reshape(members, -1)  # (N, 1), (M, N * K)

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        logs = log_softmax((weights @ flat).reshape(target.shape), axis=1)  # (N, K)
        slope = np.exp(logs) * mass - target
        return -float((target * logs).sum()), flat @ slope.ravel()

    bounds = [(0.0, LARGEST_WEIGHT)] * members
    return minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}).x
