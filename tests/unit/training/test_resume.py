"""A training that was interrupted ends as if it had not been: weights and epochs bit for bit, times aside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rakuten_tasks.config import LSTMConfig, PhotoConfig, Weights
from rakuten_tasks.data.splits import TRAIN
from rakuten_tasks.models.backbones import load_backbone
from rakuten_tasks.models.extractors import Extractor, MapExtractor, PixelExtractor
from rakuten_tasks.models.members.lstm import LSTM
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.models.members.vgg16 import VGG16
from rakuten_tasks.models.networks.token_lstm import TokenLSTM
from rakuten_tasks.training.checkpoint import Checkpoints
from rakuten_tasks.training.loop import fit
from rakuten_tasks.training.schedule import Schedule
from rakuten_tasks.training.state import EpochMetrics
from tests.support.photo_products import SCRATCH, TUNED, data_of, photos
from tests.support.tiny_models import write_vgg16
from tests.support.training_data import CPU, assert_same, labelled_products, training_data, without_timings
from tests.support.training_doubles import KilledStore, MemoryStore, PointDataset, SimulatedKill

SCHEDULE = Schedule(epochs=3, batch_size=12, patience=3)  # 4 batches, the last one smaller


class Dim(PointDataset):
    """PointDataset with random noise while training; the power goes at the batch numbered `cut`."""

    def __init__(self, cut: int = 10**9) -> None:
        super().__init__()
        self.cut = cut

    def batch(self, rows, augment):
        (points,) = super().batch(rows, augment)
        if len(self.asked) > self.cut:
            raise SimulatedKill
        return (points + torch.tensor([augment() for _ in rows])[:, None] if augment else points,)


def run(store: MemoryStore, cut: int = 10**9, interval: float = 0, told: list[EpochMetrics] | None = None):
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


@pytest.fixture(scope="module")
def uninterrupted():
    return run(MemoryStore(), interval=1e9)


def test_checkpoints_change_nothing(uninterrupted):
    weights, epochs, batches = run(MemoryStore(), interval=0)
    assert_same(weights, uninterrupted[0])
    assert without_timings(epochs) == without_timings(uninterrupted[1])
    assert batches == uninterrupted[2] == 1 + 3 * (4 + 2)  # the first batch is tried before the first step


@pytest.mark.parametrize("cut", range(19))
def test_interrupted_at_any_batch_of_training_or_validation_it_goes_on_at_that_step(uninterrupted, cut):
    store, told = MemoryStore(), []
    with pytest.raises(SimulatedKill):
        run(store, cut)
    weights, epochs, batches = run(store, told=told)
    assert_same(weights, uninterrupted[0])
    assert without_timings(told) == without_timings(epochs) == without_timings(uninterrupted[1])
    if cut < 2:  # nothing was written yet
        assert batches == 1 + 18
        return
    # validation is read again from its start, and what ended with it is known from the next step on
    done = cut - 1
    assert batches == 18 - done + {5: 1, 0: 2}.get(done % 6, 0)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("cut", range(1, 14))
def test_interrupted_right_before_or_after_any_checkpoint_it_ends_the_same(uninterrupted, cut, before):
    store = KilledStore(None, cut, before)
    with pytest.raises(SimulatedKill):
        run(store)
    weights, epochs, _ = run(MemoryStore(store.blob))
    assert_same(weights, uninterrupted[0])
    assert without_timings(epochs) == without_timings(uninterrupted[1])


def test_interrupted_over_and_over_it_ends_the_same(uninterrupted):
    store, attempts = MemoryStore(), 0
    while True:
        attempts += 1
        try:
            weights, epochs, _ = run(store, cut=3)  # the two of validation, one more
            break
        except SimulatedKill:
            continue
    assert attempts > 5
    assert_same(weights, uninterrupted[0])
    assert without_timings(epochs) == without_timings(uninterrupted[1])


def test_with_seldom_checkpoints_it_goes_on_from_the_last_one(uninterrupted):
    store = KilledStore(None, 3)
    with pytest.raises(SimulatedKill):
        run(store)
    weights, _, batches = run(MemoryStore(store.blob), interval=1e9)
    assert batches == 18 - 3
    assert_same(weights, uninterrupted[0])


def test_a_damaged_checkpoint_means_training_anew_to_the_same_end(uninterrupted, caplog):
    store = KilledStore(None, 5)
    with pytest.raises(SimulatedKill):
        run(store)
    weights, _, batches = run(MemoryStore(store.blob[:-7]))
    assert batches == 1 + 18
    assert_same(weights, uninterrupted[0])
    assert caplog.messages == ["checkpoint ignored, training starts anew: it is damaged or cut short"]


def test_a_finished_training_is_not_trained_again_and_tells_of_its_epochs(uninterrupted):
    store, told = MemoryStore(), []
    run(store)
    weights, epochs, batches = run(store, told=told)
    assert batches == 0
    assert told == epochs
    assert_same(weights, uninterrupted[0])


def test_an_epoch_says_where_its_time_went_over_all_attempts(uninterrupted):
    store = KilledStore(None, 3)
    with pytest.raises(SimulatedKill):
        run(store)
    _, (first, *_), _ = run(MemoryStore(store.blob))
    for epoch in (first, *uninterrupted[1]):
        parts = (epoch.read_seconds, epoch.compute_seconds, epoch.validate_seconds, epoch.save_seconds)
        assert all(part > 0 for part in parts)
        assert sum(parts) <= epoch.seconds
    assert first.save_seconds > uninterrupted[1][0].save_seconds


def in_attempts(train: Callable[[MemoryStore], FitResult]) -> tuple[FitResult, int]:
    """Interrupted at every checkpoint, until it ends. -> what was fitted, attempts"""
    blob, attempts = None, 0
    while True:
        attempts += 1
        store = KilledStore(blob, 2 if blob else 1)  # what was restored is written too
        try:
            return train(store), attempts
        except SimulatedKill:
            blob = store.blob


def assert_same_fit(ours: FitResult, theirs: FitResult) -> None:
    assert_same(*(vars(fitted.member)["network"].state_dict() for fitted in (ours, theirs)))
    assert without_timings(ours.epochs) == without_timings(theirs.epochs)
    assert ours.logits.tobytes() == theirs.logits.tobytes()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> TrainingData:
    """45 products to train on, 15 on each other split."""
    products, labels, splits = labelled_products(90)
    pairs = [(p.designation, p.description) for p, s in zip(products, splits, strict=True) if s == TRAIN]
    folder = tmp_path_factory.mktemp("texts")
    return training_data(folder, [fit_tokenizer(lambda: pairs, 320, 128)], products, labels, splits)


def fit_lstm(texts: TrainingData, store: MemoryStore | None = None, seed: int = 0) -> FitResult:
    config = LSTMConfig(vocabulary_size=320, epochs=2, batch_size=16)
    return LSTM.fit(config, texts, FitContext(seed, CPU, store=store, interval=0))


@pytest.fixture(scope="module")
def lstm(texts) -> FitResult:
    return fit_lstm(texts)


def test_an_lstm_interrupted_after_every_step_of_both_trainings_ends_the_same(texts, lstm):
    again, attempts = in_attempts(lambda store: fit_lstm(texts, store))
    assert_same_fit(again, lstm)
    kept = int(str(lstm.details["best epochs"]))
    # each training: its embedding, its steps, the record of its end; and the way out
    assert attempts == (1 + 2 * 3 + 1) + (1 + kept * 5 + 1) + 1


def test_an_lstm_interrupted_in_its_second_training_does_not_repeat_the_first(texts, lstm, monkeypatch):
    store = KilledStore(None, (1 + 2 * 3 + 1) + 2)  # the second one's embedding and its first step
    with pytest.raises(SimulatedKill):
        fit_lstm(texts, store)
    monkeypatch.delattr(TokenLSTM, "init_embedding_from_svd")
    told: list[EpochMetrics] = []
    config = LSTMConfig(vocabulary_size=320, epochs=2, batch_size=16)
    context = FitContext(0, CPU, on_epoch=told.append, store=MemoryStore(store.blob), interval=0)
    again = LSTM.fit(config, texts, context)
    assert_same_fit(again, lstm)
    assert without_timings(told) == without_timings(lstm.epochs)  # of the former attempt, too


@pytest.mark.parametrize("whole", [True, False], ids=["from random weights", "head and block 5"])
def test_vgg16_interrupted_after_every_step_ends_the_same(whole, tmp_path, tmp_path_factory):
    extractor: Extractor = PixelExtractor(32)
    config = SCRATCH
    if not whole:
        path = write_vgg16(tmp_path / "vgg16.safetensors")
        frozen = PhotoConfig(weights=Weights.FILE, weights_file=str(path), image_size=32)
        extractor, config = MapExtractor(load_backbone(frozen, CPU)), TUNED
    data = data_of(tmp_path, extractor, photos())

    def train(store: MemoryStore | None = None) -> FitResult:
        return VGG16.fit(config, data, FitContext(3, CPU, store=store, interval=0))

    calm = train()
    again, attempts = in_attempts(train)
    assert_same_fit(again, calm)
    assert attempts > 6


def test_a_checkpoint_of_another_seed_is_not_gone_on_from(texts, lstm, caplog):
    store = KilledStore(None, 3)
    with pytest.raises(SimulatedKill):
        fit_lstm(texts, store, seed=1)
    assert_same_fit(fit_lstm(texts, MemoryStore(store.blob)), lstm)
    (warning,) = caplog.messages
    assert warning.endswith("it is of another training: data, configuration, code or device differ")
