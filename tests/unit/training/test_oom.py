"""Batches that do not fit are halved, in prediction and before the first step of a training."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rakuten_tasks.models.members import vgg16
from rakuten_tasks.models.members.vgg16 import VGG16, VGG16Config
from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.training import hardware
from rakuten_tasks.training.checkpoint import Checkpoints
from rakuten_tasks.training.loop import fit, predict_logits
from rakuten_tasks.training.oom import MicrobatchRunner, is_out_of_memory
from rakuten_tasks.training.schedule import Schedule
from tests.support.training_doubles import (
    CPU_OUT_OF_MEMORY,
    KilledStore,
    LimitedModel,
    MemoryStore,
    PointDataset,
    SimulatedKill,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """bf16, where this processor has it, rounds more coarsely than what is compared here."""
    monkeypatch.setattr(hardware, "half_precision", lambda device: False)


class Moving(PointDataset):
    """PointDataset that are moved at random while training."""

    def batch(self, rows, augment):
        (points,) = super().batch(rows, augment)
        return (points + torch.tensor([augment() for _ in rows])[:, None] if augment else points,)


def train(model, seed=0, epochs=2, checkpoints=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = Schedule(epochs, batch_size=16, patience=9, label_smoothing=0.1)
    return fit(
        model,
        Moving(),
        np.arange(39),
        np.arange(40, 64),
        schedule,
        optimizer,
        seed,
        name="LSTM",
        checkpoints=checkpoints,
    )


@pytest.mark.parametrize(
    "error", [RuntimeError(CPU_OUT_OF_MEMORY), torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()]
)
def test_the_microbatch_size_that_fits_is_found_before_the_first_step_with_the_same_gradient(error, caplog):
    roomy, cramped = LimitedModel(99), LimitedModel(5, error)
    train(roomy)
    epochs = train(cramped)
    for ours, theirs in zip(cramped.parameters(), roomy.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-6
    assert cramped.seen[:14] == [16, 8, *[4] * 4, *[4] * 8]  # the last eight are the first two steps
    assert cramped.seen.count(8) == 1 + len(epochs)  # validation tries again, from 16 on
    assert [r.getMessage() for r in caplog.records[:2]] == [
        "LSTM: a batch of 16 does not fit into memory: continuing with 8",
        "LSTM: a batch of 8 does not fit into memory: continuing with 4",
    ]


def test_the_microbatch_size_is_in_the_checkpoint_and_not_tried_again():
    store = KilledStore(None, 2)
    with pytest.raises(SimulatedKill):  # after two of three batches
        train(LimitedModel(5), checkpoints=Checkpoints(store, interval=0))
    model = LimitedModel(5)
    train(model, checkpoints=Checkpoints(MemoryStore(store.blob), interval=0))
    assert model.seen[:4] == [4, 3, 16, 8]  # the last seven rows of the epoch, then validation


def test_a_microbatch_never_has_one_row():
    model = LimitedModel(3)
    train(model)
    steps = model.seen[: model.seen.index(16, 1)]  # until validation, where batch norm learns nothing
    assert 1 not in steps
    assert {2, 3} <= set(steps)


def test_the_trial_of_the_first_batch_leaves_no_trace_in_batch_norm_or_random_numbers():
    class Tail(LimitedModel):
        def forward(self, points):
            if self.layers[0].training:  # in the trial it is not
                self.starts.append((self.layers[0].num_batches_tracked.item(), torch.get_rng_state()))
            return super().forward(self.layers(points))

    model = Tail(8)
    model.layers, model.starts = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), []
    train(model, epochs=1)
    assert model.seen[:5] == [16, 8, 8, 8, 8]
    (tracked, random), *_ = model.starts
    torch.manual_seed(0)
    assert tracked == 0
    assert torch.equal(random, torch.get_rng_state())


def test_a_training_that_runs_out_of_memory_after_its_first_step_says_which_setting_to_lower():
    class Shrinking(LimitedModel):
        def forward(self, points):
            self.limit = 99 if len(self.seen) < 2 else 8  # less memory from the second step on
            return super().forward(points)

    model = Shrinking(99)
    with pytest.raises(
        MemoryError,
        match=r"LSTM: 16 rows at once fitted .* do not fit now: set .*\(lstm.batch_size, .*photo.batch_size\) below 16",
    ):
        train(model)
    assert model.seen == [16, 16, 16]


def test_where_not_even_the_smallest_batch_fits_the_error_says_what_to_do():
    with pytest.raises(
        MemoryError, match=r"LSTM: not even a batch of 2 fits into memory: choose a smaller photo.image_size"
    ):
        train(LimitedModel(1))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model = LimitedModel(5, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        train(model)
    assert model.seen == [16]
    assert not is_out_of_memory(KeyError("out of memory"))


def test_predictions_come_in_halves_with_the_same_logits(caplog):
    examples, rows = PointDataset(), np.arange(50)
    halved = predict_logits(LimitedModel(7), examples, rows, 32, CPU)
    np.testing.assert_allclose(halved, predict_logits(LimitedModel(99), examples, rows, 32, CPU), atol=1e-6)
    assert "prediction: a batch of 32 does not fit into memory: continuing with 16" in caplog.messages


def test_each_row_is_answered_once_and_in_order():
    def answer(start, end):
        if end - start > 3:
            raise MemoryError
        return list(range(start, end))

    assert [row for part in MicrobatchRunner(64, "photos").iter_chunks(20, answer) for row in part] == list(range(20))


def test_photos_come_in_halves(monkeypatch, caplog):
    torch.manual_seed(0)
    branch = VGG16Network(random_convolutions(), 32, 2)
    nn.init.normal_(branch.upper.head.linear.weight, std=0.01)
    member = VGG16(branch, VGG16Config(True, True, 32, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(vgg16, "batch_size", lambda device: 16)  # as on a GPU, more than on a processor
    logits, _ = member.logits_and_embedding({"pixels": pixels})
    lower = branch.lower.forward

    def cramped(batch):
        if len(batch) > 4:
            raise MemoryError
        return lower(batch)

    monkeypatch.setattr(branch.lower, "forward", cramped)
    np.testing.assert_allclose(member.logits_and_embedding({"pixels": pixels})[0], logits, atol=1e-4)
    assert "photos: a batch of 11 does not fit into memory: continuing with 5" in caplog.messages


def test_what_torch_says_when_this_machine_has_no_more_memory_is_understood():
    code = (
        "import resource, torch; from rakuten_tasks.training.oom import MicrobatchRunner\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "print(MicrobatchRunner(1 << 34, 'zeros').run(lambda rows: len(torch.empty(rows)), 1 << 34))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < 1 << 31
