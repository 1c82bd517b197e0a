"""Several processes that train the photo branch do what one does."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rakuten_tasks.classifier.arrays import ShardArrays
from rakuten_tasks.classifier.checkpoint import FolderStore
from rakuten_tasks.classifier.photo_training import FeatureExamples, new_branch, train_photo_branch, write_features
from rakuten_tasks.classifier.ranks import alike, rank, share, world
from rakuten_tasks.classifier.training import Epoch, Schedule, fit
from tests import test_photo_training as photos
from tests.several_processes import run_in

CPU = torch.device("cpu")
ROWS = np.array([0, 1, 2, 3, 4])  # of two processes one gets three, the other two


class Unmoved:
    """Prepared photos, never moved, so that all processes see what one sees."""

    def __init__(self, shard: Path) -> None:
        self.arrays = ShardArrays([shard])
        self.labels = self.arrays.column("label")

    def batch(self, rows, augment):
        return (torch.from_numpy(self.arrays.take("pixels", rows)),)


class Recorded(torch.optim.AdamW):
    """Keeps the gradients of its first step."""

    first: dict[int, Tensor]

    def step(self, closure=None):
        parameters = self.param_groups[0]["params"]
        if not hasattr(self, "first"):
            self.first = {number: weight.grad.clone() for number, weight in enumerate(parameters)}
        return super().step(closure)


def first_gradients(shard: Path, batch_size: int) -> dict[str, Tensor]:
    """Of one batch of all training rows, without dropout, from weights that let every layer have a gradient."""
    torch.manual_seed(1)
    branch = new_branch(photos.SCRATCH, 2)
    nn.init.normal_(branch.upper.head.linear.weight, std=0.01)
    branch.upper.head.dropout.p = 0.0
    alike(branch)
    optimizer = Recorded(branch.parameters(), lr=1e-3)
    fit(branch, Unmoved(shard), ROWS, np.array([5, 6]), Schedule(1, batch_size, 1), optimizer, seed=0)
    names = [name for name, _ in branch.named_parameters()]
    means = {name: buffer for name, buffer in branch.named_buffers() if "running" in name}
    return {names[number]: gradient for number, gradient in optimizer.first.items()} | means
