"""Linear classifiers on sparse and dense features, fitted to convergence (convex: no epochs, no seed)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

ITERATIONS = 100  # on 11,000 descriptions 40 lose 0.011 weighted F1; 200 gain 0.0004 in twice the time
MAX_WEIGHTS_PER_FIT = 2**23  # fitted together: with L-BFGS's history 1.6 GB, for any number of classes

Operand = tuple[Tensor, Tensor, Tensor]  # indices, weights, starts: a sparse matrix, row after row


class Loss(Enum):
    """Loss functions. HINGE: squared, one class against the rest, as sklearn.svm.LinearSVC. SOFTMAX: cross-entropy."""

    HINGE = "hinge"
    SOFTMAX = "softmax"


@dataclass(frozen=True)
class Features:
    """N rows: sparse (N, D) fp32 or None, dense (N, E) fp32 or None; one of them at least."""

    sparse: sparse.csr_array | None = None
    dense: NDArray | None = None

    def __len__(self) -> int:
        return (self.dense if self.sparse is None else self.sparse).shape[0]  # type: ignore[union-attr]

    def take(self, rows: NDArray) -> Features:
        """Select rows, in this order."""
        return Features(
            None if self.sparse is None else sparse.csr_array(self.sparse[rows]),
            None if self.dense is None else self.dense[rows],
        )


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier: scores = sparse @ table + dense @ weight + bias.

    table: (D, K), weight: (E, K), bias: (K,), all fp32.
    """

    table: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, features: Features) -> NDArray:
        """Compute scores (N, K) fp32. A row gets the same bits alone and in a batch."""
        total = self.bias.expand(len(features), -1)
        if features.sparse is not None:
            total = total + _product(operand(features.sparse, self.table.device), self.table)
        if features.dense is not None:
            dense = torch.from_numpy(np.ascontiguousarray(features.dense, dtype=np.float32)).to(self.weight.device)
            total = total + dense_product(dense, self.weight)
        return total.cpu().numpy()


def fit_linear(
    features: Features, labels: NDArray, classes: int, cost: float, loss: Loss, device: torch.device
) -> LinearClassifier:
    """Minimise the loss of N rows with labels (N,), by L-BFGS.

    cost: scikit-learn's C, of the sum of losses against half the sum of squared weights; the bias is not penalised.
    A step is two products over all rows, on the device. The sparse part is in memory twice.
    """
    targets = functional.one_hot(torch.from_numpy(labels), classes).float().to(device)  # (N, K)
    matrix = None if features.sparse is None else _Sparse(features.sparse, device)
    dense = None if features.dense is None else torch.from_numpy(features.dense.astype(np.float32)).to(device)
    used = 0 if matrix is None else len(matrix.used)
    width = used + (0 if dense is None else dense.shape[1])
    # under the hinge, classes are independent of each other, and can be fitted in parts to bound the memory
    step = classes if loss is Loss.SOFTMAX else max(1, MAX_WEIGHTS_PER_FIT // max(1, width))
    parts = [_fit(matrix, dense, part, cost, loss) for part in targets.split(step, dim=1)]
    weight, bias = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts])
    table = torch.zeros(0 if features.sparse is None else features.sparse.shape[1], classes, device=device)
    if matrix is not None:
        table[matrix.used] = weight[:used]
    return LinearClassifier(table, weight[used:].contiguous(), bias)


class _Sparse:
    """A sparse matrix and its transpose, without empty columns."""

    def __init__(self, rows: sparse.csr_array, device: torch.device) -> None:
        columns = np.unique(rows.indices)
        rows = sparse.csr_array(rows[:, columns])
        rows.sort_indices()  # the order in which a row's n-grams were counted depends on its neighbours
        self.used = torch.from_numpy(columns).to(device)
        self.forward, self.backward = operand(rows, device), operand(sparse.csr_array(rows.T.tocsr()), device)


def _fit(
    matrix: _Sparse | None, dense: Tensor | None, targets: Tensor, cost: float, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Fit (N, C) targets of some of the classes -> (used + E, C) weights, (C,) biases."""
    rows, used = len(targets), 0 if matrix is None else len(matrix.used)
    width = used + (0 if dense is None else dense.shape[1])
    weight = torch.zeros(width, targets.shape[1], device=targets.device, requires_grad=True)
    bias = torch.zeros(targets.shape[1], device=targets.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")
    penalty = 1 / (cost * rows)

    def closure() -> Tensor:
        current = weight.detach()
        scores = bias.detach().expand(rows, -1)
        if matrix is not None:
            scores = scores + _product(matrix.forward, current[:used])
        if dense is not None:
            scores = scores + dense @ current[used:]
        value, slope = _hinge(scores, targets) if loss is Loss.HINGE else _softmax(scores, targets)
        parts = [] if matrix is None else [_product(matrix.backward, slope)]
        parts += [] if dense is None else [dense.T @ slope]
        weight.grad = torch.cat(parts) + penalty * current
        bias.grad = slope.sum(0)
        return value + penalty / 2 * current.square().sum()

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _hinge(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (N, C), (N, C) of 0 and 1 -> the mean squared hinge of the rows, and its gradient (N, C)."""
    signs = 2 * targets - 1
    gaps = (1 - signs * scores).clamp_min(0)
    return gaps.square().sum() / len(scores), -2 * gaps * signs / len(scores)


def _softmax(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (N, K), (N, K) of 0 and 1 -> the mean cross-entropy of the rows, and its gradient (N, K)."""
    logs = functional.log_softmax(scores, 1)
    return -(logs * targets).sum() / len(scores), (logs.exp() - targets) / len(scores)


def _product(matrix: Operand, weight: Tensor) -> Tensor:
    """Multiply (N, D) sparse @ (D, C) -> (N, C)"""
    indices, values, starts = matrix
    return functional.embedding_bag(indices, weight, starts, mode="sum", per_sample_weights=values)


def dense_product(dense: Tensor, weight: Tensor) -> Tensor:
    """Multiply (N, E) @ (E, K) -> (N, K) fp32. A row gets the same bits alone and in a batch.

    In fp64, rounding is below fp32's last bit, whichever kernel is chosen for the number of rows.
    """
    return (dense.double() @ weight.double()).float()


def operand(matrix: sparse.csr_array, device: torch.device) -> Operand:
    """Convert a sparse matrix for `_product`; on a CPU without a copy."""
    indices, weights, starts = map(torch.from_numpy, (matrix.indices, matrix.data, matrix.indptr[:-1]))
    return indices.to(device), weights.to(device), starts.to(device)
