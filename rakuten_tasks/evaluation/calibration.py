"""Weights of scores by maximum likelihood: the calibration of one system, the log-linear pool of several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

PRIOR_ROWS = 10  # additional rows of a prior at equal weights
LARGEST_WEIGHT = 100.0  # of a member that is always right, whose optimum is infinite


def fit_weights(scores: NDArray, labels: NDArray) -> NDArray:
    """Maximise the likelihood of N rows' labels over the weights of M calibrated members. (M, N, K), (N,) -> (M,)

    All weights are 1 / M if there are no rows. The problem is convex and has one optimum.
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


def fit_scale(scores: NDArray, labels: NDArray) -> float:
    """Fit the weight that calibrates one system's scores; 1 if they are constant or there are none. (N, K), (N,)

    Scores are scaled to unit deviation first, so that the fit's prior rows have the same effect for every system.
    """
    spread = float(scores.std()) if len(labels) else 0.0
    return float(fit_weights(scores[None].astype(np.float64) / spread, labels)[0]) / spread if spread else 1.0
