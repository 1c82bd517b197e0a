import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from rakuten_tasks.training.loop import fit, predict_logits
from rakuten_tasks.training.schedule import Schedule
from rakuten_tasks.training.state import EpochMetrics
from tests.support.training_doubles import PointDataset

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def train(model, examples, schedule, on_epoch=lambda epoch: None, lr=0.05, seed=0):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return fit(model, examples, np.arange(40), np.arange(40, 64), schedule, optimizer, seed, on_epoch)


def test_training_learns_and_tells_of_each_epoch(model):
    told = []
    epochs = train(model, PointDataset(), Schedule(epochs=8, batch_size=16, patience=8), told.append)
    assert told == epochs
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].valid_loss < epochs[0].valid_loss
    assert epochs[-1].valid_f1 > 0.9


def test_the_log_has_a_line_for_each_epoch_with_its_score_and_no_bar(model, caplog, capsys):
    caplog.set_level(logging.INFO)
    first, second = train(model, PointDataset(), Schedule(epochs=2, batch_size=16, patience=2))
    assert caplog.messages == [f"training, {first}", f"training, {second}"]
    loss, score = f"{second.valid_loss:.4f}", f"{second.valid_f1:.4f}"
    line = f"epoch 2: training loss {second.train_loss:.4f}, validation loss {loss}, weighted F1 {score}, 0 s"
    assert str(second) == line
    assert capsys.readouterr().err == ""


def test_the_line_of_an_epoch_without_validation_rows_has_the_training_loss_alone():
    epoch = EpochMetrics(3, 0.5, math.nan, math.nan, 0.001, 12.4)
    assert str(epoch) == "epoch 3: training loss 0.5000, 12 s"


def test_the_weights_kept_are_those_of_the_epoch_with_the_least_validation_loss(model):
    examples = PointDataset()
    epochs = train(model, examples, Schedule(epochs=8, batch_size=16, patience=8), lr=2.0)
    logits = torch.from_numpy(predict_logits(model, examples, np.arange(40, 64), 16, CPU))
    loss = float(nn.functional.cross_entropy(logits, torch.from_numpy(examples.labels[40:])))
    assert loss == pytest.approx(min(epoch.valid_loss for epoch in epochs))


def test_training_stops_when_patience_runs_out(model):
    examples = PointDataset()
    examples.labels[40:] = 1 - examples.labels[40:]  # whatever is learned makes validation worse
    epochs = train(model, examples, Schedule(epochs=20, batch_size=16, patience=3))
    best = min(epochs, key=lambda epoch: epoch.valid_loss).number
    assert len(epochs) == best + 3 < 20


def test_the_learning_rate_ends_near_zero(model):
    epochs = train(model, PointDataset(), Schedule(epochs=5, batch_size=16, patience=5))
    assert max(epoch.learning_rate for epoch in epochs) > 0.01
    assert epochs[-1].learning_rate < 1e-5


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(model):
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = []
    for seed in (3, 3, 4):
        model.load_state_dict(start)
        train(model, PointDataset(), Schedule(epochs=2, batch_size=16, patience=2), seed=seed)
        weights.append(torch.cat([weight.flatten() for weight in model.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_only_training_rows_are_augmented_and_only_the_rows_given_are_read(model):
    examples = PointDataset()
    train(model, examples, Schedule(epochs=2, batch_size=16, patience=2))
    augmented = {row for rows, augment in examples.asked if augment for row in rows}
    plain = {row for rows, augment in examples.asked if not augment for row in rows}
    assert augmented == set(range(40))
    assert plain == set(range(40, 64))


def test_logits_do_not_depend_on_the_batch_size(model):
    examples = PointDataset()
    one, many = (predict_logits(model, examples, np.arange(10), size, CPU) for size in (1, 10))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_a_training_that_diverges_says_so_and_names_the_learning_rate(model):
    with pytest.raises(ValueError, match=r"training diverged at learning rate 1e\+20: the loss is no number"):
        train(model, PointDataset(), Schedule(epochs=2, batch_size=16, patience=2), lr=1e20)
