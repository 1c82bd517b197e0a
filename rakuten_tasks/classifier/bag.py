"""The linear model on the bag of n-grams, fitted to convergence: a convex problem, so no epochs and no luck."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

PENALTY = 3e-4  # of the squared weights, for rows of unit length
ITERATIONS = 100


class Bag(nn.Module):
    """Sums the rows of its table that a product's n-grams name, each times the n-gram's weight."""

    def __init__(self, buckets: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(buckets, classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, ngrams: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        """(M,) buckets and (M,) weights of B products, each from its start on -> (B, K)"""
        return _sums(self.table, ngrams, weights, starts) + self.bias


def _sums(table: Tensor, indices: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    return functional.embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


def fit_bag(bag: Bag, rows: sparse.csr_array, labels: NDArray) -> None:
    """Least squared hinge loss of each class against the rest, on (N, buckets) rows of labels (N,), by L-BFGS.

    The squared hinge beats cross-entropy, each at its best penalty, by 0.4 to 1.2 points of weighted F1 on French
    texts. A step is two sparse products over all rows; a step of AdamW for each batch would update the whole table.
    """
    device = bag.table.device
    used = np.unique(rows.indices)  # a bucket outside the training rows keeps weight 0
    rows = sparse.csr_array(rows[:, used])
    length = float(np.sqrt(rows.power(2).sum(1).mean()))
    forward, backward = _operand(rows / length, device), _operand(rows.T.tocsr() / length, device)
    sides = 2 * functional.one_hot(torch.from_numpy(labels), len(bag.bias)).float().to(device) - 1  # (N, K), +1 or -1
    table = torch.zeros(len(used), len(bag.bias), device=device, requires_grad=True)
    bias = torch.zeros_like(bag.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([table, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        gaps = (1 - sides * (_sums(table.detach(), *forward) + bias.detach())).clamp_min(0)  # (N, K)
        slope = -2 * gaps * sides / len(labels)  # of the mean loss by the scores
        table.grad = _sums(slope, *backward) + PENALTY * table.detach()
        bias.grad = slope.sum(0)
        return gaps.square().sum() / len(labels) + PENALTY / 2 * table.detach().square().sum()

    optimizer.step(loss)
    with torch.no_grad():
        bag.table[torch.from_numpy(used).to(device)] = table.detach() / length
        bag.bias.copy_(bias)


def _operand(matrix: sparse.csr_array, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A sparse matrix as the indices, weights and starts that `_sums` multiplies with."""
    indices, weights, starts = (
        torch.from_numpy(array).to(device)
        for array in (
            matrix.indices.astype(np.int64),
            matrix.data.astype(np.float32),
            matrix.indptr[:-1].astype(np.int64),
        )
    )
    return indices, weights, starts
