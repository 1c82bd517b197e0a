"""A training that was interrupted ends as if it had not been: weights and epochs bit for bit, times aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from rakuten_tasks.classifier.photo_training import train_photo_branch, write_features
from torch import Tensor, nn

from rakuten_tasks.classifier import lstm
from rakuten_tasks.classifier.checkpoint import Checkpoints
from rakuten_tasks.classifier.lstm import train_text_branch
from rakuten_tasks.classifier.training import Epoch, Schedule, fit
from rakuten_tasks.classifier.vgg16_weights import empty_convolutions
from rakuten_tasks.config import PhotoConfig, Weights
from tests import test_lstm as texts
from tests import test_photo_training as photos
from tests.test_checkpoint import Kept
from tests.test_training import Points

CPU = torch.device("cpu")
SCHEDULE = Schedule(epochs=3, batch_size=12, patience=3)  # 4 batches, the last one smaller


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Dim(Points):
    """Points with random noise while training; the power goes at the batch numbered `cut`."""

    def __init__(self, cut: int = 10**9) -> None:
        super().__init__()
        self.cut = cut

    def batch(self, rows, augment):
        (points,) = super().batch(rows, augment)
        if len(self.asked) > self.cut:
            raise PowerCut
        return (points + torch.tensor([augment() for _ in rows])[:, None] if augment else points,)


class Cutting(Kept):
    """A store whose power goes after it has written for the `cut`th time, or just before."""

    def __init__(self, blob: bytes | None, cut: int, before: bool = False) -> None:
        super().__init__(blob)
        self.cut, self.before = cut, before

    def write(self, content: bytes) -> None:
        if self.before and self.written + 1 == self.cut:
            raise PowerCut
        super().write(content)
        if self.written == self.cut:
            raise PowerCut


def run(store: Kept, cut: int = 10**9, interval: float = 0, told: list[Epoch] | None = None):
    """One attempt, in a process where other random numbers were drawn. -> (weights, epochs, batches read)"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    torch.manual_seed(np.random.default_rng().integers(2**31))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    examples = Dim(cut)
    on_epoch = (told if told is not None else []).append
    checkpoints = Checkpoints(store, "ours", interval)
    rows = np.arange(40), np.arange(40, 64)
    epochs = fit(model, examples, *rows, SCHEDULE, optimizer, 5, on_epoch, checkpoints=checkpoints)
    return model.state_dict(), epochs, len(examples.asked)


def timeless(epochs: list[Epoch]) -> list[Epoch]:
    times = {field.name: 0.0 for field in fields(Epoch) if field.name.endswith("seconds")}
    return [replace(epoch, **times) for epoch in epochs]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def uninterrupted():
    return run(Kept(), interval=1e9)


def test_checkpoints_change_nothing(uninterrupted):
    weights, epochs, batches = run(Kept(), interval=0)
    assert_same(weights, uninterrupted[0])
    assert timeless(epochs) == timeless(uninterrupted[1])
    assert batches == uninterrupted[2] == 3 * (4 + 2)


@pytest.mark.parametrize("cut", range(18))
def test_interrupted_at_any_batch_of_training_or_validation_it_goes_on_at_that_step(uninterrupted, cut):
    store, told = Kept(), []
    with pytest.raises(PowerCut):
        run(store, cut)
    weights, epochs, batches = run(store, told=told)
    assert_same(weights, uninterrupted[0])
    assert timeless(told) == timeless(epochs) == timeless(uninterrupted[1])
    # validation is read again from its start, and what ended with it is known from the next step on
    again = {5: 1, 0: 2}.get(cut % 6, 0) if cut else 0
    assert batches == 18 - cut + again


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("cut", range(1, 14))
def test_interrupted_right_before_or_after_any_checkpoint_it_ends_the_same(uninterrupted, cut, before):
    store = Cutting(None, cut, before)
    with pytest.raises(PowerCut):
        run(store)
    weights, epochs, _ = run(Kept(store.blob))
    assert_same(weights, uninterrupted[0])
    assert timeless(epochs) == timeless(uninterrupted[1])


def test_interrupted_over_and_over_it_ends_the_same(uninterrupted):
    store, attempts = Kept(), 0
    while True:
        attempts += 1
        try:
            weights, epochs, _ = run(store, cut=3)  # the two of validation, one more
            break
        except PowerCut:
            continue
    assert attempts > 5
    assert_same(weights, uninterrupted[0])
    assert timeless(epochs) == timeless(uninterrupted[1])


def test_with_seldom_checkpoints_it_goes_on_from_the_last_one(uninterrupted):
    store = Cutting(None, 3)
    with pytest.raises(PowerCut):
        run(store)
    weights, _, batches = run(Kept(store.blob), interval=1e9)
    assert batches == 18 - 3
    assert_same(weights, uninterrupted[0])


def test_a_damaged_checkpoint_means_training_anew_to_the_same_end(uninterrupted, caplog):
    store = Cutting(None, 5)
    with pytest.raises(PowerCut):
        run(store)
    weights, _, batches = run(Kept(store.blob[:-7]))
    assert batches == 18
    assert_same(weights, uninterrupted[0])
    assert caplog.messages == ["checkpoint ignored, training starts anew: it is damaged or cut short"]


def test_a_finished_training_is_not_trained_again_and_tells_of_its_epochs(uninterrupted):
    store, told = Kept(), []
    run(store)
    weights, epochs, batches = run(store, told=told)
    assert batches == 0
    assert told == epochs
    assert_same(weights, uninterrupted[0])


def test_an_epoch_says_where_its_time_went_over_all_attempts(uninterrupted):
    store = Cutting(None, 3)
    with pytest.raises(PowerCut):
        run(store)
    _, (first, *_), _ = run(Kept(store.blob))
    for epoch in (first, *uninterrupted[1]):
        parts = (epoch.read_seconds, epoch.compute_seconds, epoch.validate_seconds, epoch.save_seconds)
        assert all(part > 0 for part in parts)
        assert sum(parts) <= epoch.seconds
    assert first.save_seconds > uninterrupted[1][0].save_seconds


def in_attempts(train: Callable[[Kept], tuple[nn.Module, list[Epoch]]]):
    """Interrupted at every checkpoint, until it ends. -> (weights, epochs, attempts)"""
    blob, attempts = None, 0
    while True:
        attempts += 1
        store = Cutting(blob, 2 if blob else 1)  # what was restored is written too
        try:
            branch, epochs = train(store)
            return branch.state_dict(), epochs, attempts
        except PowerCut:
            blob = store.blob


def test_the_text_branch_interrupted_after_its_bag_and_after_every_step_ends_the_same(tmp_path, monkeypatch):
    vocabulary, branch, epochs, shards = texts.train(tmp_path, *texts.catalogue(135))
    fitted = []
    monkeypatch.setattr(lstm, "fit_bag", lambda *args: fitted.append(texts.fit_bag(*args)))

    def train(store):
        return train_text_branch(shards, vocabulary, texts.CODES, texts.CONFIG, 0, CPU, store=store, interval=0)

    weights, again, attempts = in_attempts(train)
    assert_same(weights, branch.state_dict())
    assert timeless(again) == timeless(epochs)
    assert attempts == 1 + 3 * 6 + 2  # the bag; a step each; the record of the end; and the way out
    assert len(fitted) == 1


def test_the_text_branch_killed_between_bag_and_lstm_does_not_fit_the_bag_again(tmp_path, monkeypatch):
    vocabulary, branch, _, shards = texts.train(tmp_path, *texts.catalogue(135))
    store = Cutting(None, 1)
    args = shards, vocabulary, texts.CODES, texts.CONFIG, 0, CPU
    with pytest.raises(PowerCut):
        train_text_branch(*args, store=store)
    monkeypatch.delattr(lstm, "fit_bag")
    monkeypatch.delattr(lstm.TokenLSTM, "start_from")
    again, _ = train_text_branch(*args, store=Kept(store.blob))
    assert_same(again.state_dict(), branch.state_dict())


def test_photos_interrupted_after_every_step_of_head_and_block_5_end_the_same(tmp_path, monkeypatch):
    torch.manual_seed(1)
    torch.save(empty_convolutions(batch_norm=False).state_dict(), tmp_path / "vgg16.pth")
    file = str(tmp_path / "vgg16.pth")
    config = PhotoConfig(Weights.FILE, file, side=32, epochs=2, batch_size=2, fine_tune_epochs=2)
    write_features(photos.shard(tmp_path / "photos", photos.photos()), tmp_path / "features", config)

    def train(store=None):
        return train_photo_branch([tmp_path / "features"], [10, 20], config, 3, CPU, store=store, interval=0)

    branch, epochs = train()
    weights, again, attempts = in_attempts(train)
    assert_same(weights, branch.state_dict())
    assert timeless(again) == timeless(epochs)
    assert [epoch.number for epoch in again] == [1, 2, 3, 4]
    assert attempts > 6


def test_photos_from_random_weights_interrupted_after_every_step_end_the_same(tmp_path):
    shard = photos.shard(tmp_path / "photos", photos.photos())

    def train(store=None):
        return train_photo_branch([shard], [10, 20], photos.SCRATCH, 3, CPU, store=store, interval=0)

    branch, epochs = train()
    weights, again, attempts = in_attempts(train)
    assert_same(weights, branch.state_dict())
    assert timeless(again) == timeless(epochs)
    assert attempts == 2 + 2  # a step each; the record of the end; and the way out


def test_a_checkpoint_of_another_seed_is_not_gone_on_from(tmp_path, caplog):
    vocabulary, branch, _, shards = texts.train(tmp_path, *texts.catalogue(135))
    store = Cutting(None, 3)
    with pytest.raises(PowerCut):
        train_text_branch(shards, vocabulary, texts.CODES, texts.CONFIG, 1, CPU, store=store, interval=0)
    again, _ = train_text_branch(shards, vocabulary, texts.CODES, texts.CONFIG, 0, CPU, store=Kept(store.blob))
    assert_same(again.state_dict(), branch.state_dict())
    (warning,) = caplog.messages
    assert warning.endswith("it is of another training: data, configuration, code or device differ")
