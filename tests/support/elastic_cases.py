"""What several processes do in tests of elastic members, apart from those, so that they need not import Flyte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, Refit, TextConfig, Weights
from rakuten_tasks.models.members.held_out import Examples
from rakuten_tasks.models.members.member import FitContext
from rakuten_tasks.models.members.transformer import Transformer
from rakuten_tasks.models.members.vgg16 import VGG16, read_pixels
from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.training.checkpoint import LocalCheckpointStore
from rakuten_tasks.training.distributed import convert_sync_batchnorm, rank, shard_for_rank
from rakuten_tasks.training.loop import fit
from rakuten_tasks.training.schedule import Schedule
from rakuten_tasks.training.state import EpochMetrics
from tests.support.training_data import CPU, read_training_data, without_timings
from tests.support.training_doubles import LimitedModel, PointDataset
from tests.support.vgg16_data import read_data

ROWS = np.arange(13)  # of two processes one gets seven, the other six
SCRATCH = PhotoConfig(weights=Weights.RANDOM, image_size=32, epochs=4, batch_size=16)
TUNED = PhotoConfig(weights=Weights.IMAGENET, image_size=32, epochs=2, batch_size=16, fine_tune_epochs=2)


class Recorded(torch.optim.AdamW):
    """Keeps the gradients of its first step."""

    first: tuple[Tensor, ...] = ()

    def step(self, closure=None):
        self.first = self.first or tuple(weight.grad.clone() for weight in self.param_groups[0]["params"])
        return super().step(closure)


def first_gradients(folder: Path) -> dict[str, Tensor]:
    """Of one batch, without dropout, from weights that let every layer have a gradient; and batch norm's means.

    In fp64: in fp32 one rounding now and then decides which of two near-equal pixels is the maximum.
    """
    torch.manual_seed(1)
    branch = VGG16Network(random_convolutions(), 32, 3)
    nn.init.normal_(branch.upper.head.linear.weight, std=0.01)
    branch.upper.head.dropout.p = 0.0
    convert_sync_batchnorm(branch.double())
    optimizer = Recorded(branch.parameters(), lr=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        data = read_data(folder)
        # without augmentation, so that several processes get the same photos as one
        examples = Examples(data.labels, lambda rows, augment: read_pixels(data.arrays["pixels"], rows, None))
        fit(branch, examples, ROWS, ROWS + 75, Schedule(1, len(ROWS), 1), optimizer, seed=0)
    names = (name for name, _ in branch.named_parameters())
    means = {name: buffer for name, buffer in branch.named_buffers() if "running" in name}
    return dict(zip(names, optimizer.first, strict=True)) | means


def cramped(limit: int) -> tuple[list[int], Tensor, list[int]]:
    """A training in which only the last process is short of memory. -> rows at once, weights, its share of 0 to 4"""
    model = LimitedModel(limit if rank() else 99)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    fit(model, PointDataset(), np.arange(39), np.arange(40, 64), Schedule(2, 16, 9), optimizer, 0)
    return model.seen, model.linear.weight.detach(), shard_for_rank(np.arange(5)).tolist()


def one_batch(folder: Path) -> tuple[dict[str, Tensor], tuple[list[int], Tensor, list[int]]]:
    """Both of the above, as starting two processes takes longer than they do."""
    return first_gradients(folder), cramped(3)


class ExitingStore(LocalCheckpointStore):
    """A store whose process exits after its seventh write, within the second epoch."""

    written = 0

    def write(self, content: bytes) -> None:
        super().write(content)
        self.written += 1
        if self.written == 7:
            os._exit(1)


def trained(
    folder: Path, config: PhotoConfig, store: LocalCheckpointStore | None = None, interval: float = 1e9
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    """-> epochs without their times, and what of the network was trained."""
    context = FitContext(3, CPU, Refit.NONE, store=store, interval=interval)
    fitted = VGG16.fit(config, read_data(folder), context)
    assert isinstance(fitted.member, VGG16)
    return without_timings(fitted.epochs), fitted.member.network.state_dict()


def tuned_encoder(
    folder: Path, config: TextConfig, store: LocalCheckpointStore | None = None, interval: float = 1e9
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    """The same of a pretrained encoder, on what training_data.training_data wrote."""
    context = FitContext(0, CPU, Refit.NONE, store=store, interval=interval)
    fitted = Transformer.fit(config, read_training_data(folder, ["encoder_tokens"]), context)
    assert isinstance(fitted.member, Transformer)
    return without_timings(fitted.epochs), fitted.member.network.state_dict()
