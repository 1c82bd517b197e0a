"""What the fit of a member tells and shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from flytekit import FlyteContextManager

from rakuten_tasks.models.members.member import FitResult
from rakuten_tasks.tasks.training_log import log_epoch, log_fit
from tests.support.deck_cases import epochs_of, refitted


@dataclass
class RecordedLog:
    """A run's log in memory."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)

    def metrics(self, values, step=0):
        self.points.append((step, dict(values)))

    def figure(self, figure, name):
        self.figures.append(name)

    def artifact(self, path, folder=None):
        self.pages.append(Path(path).name)


def fitted(epochs, **facts):
    rows = np.arange(5)
    return FitResult(None, None, rows, np.zeros((5, 2)), np.array([True, True, False, False, False]), epochs, facts)


@pytest.fixture
def log():
    with FlyteContextManager.with_context(FlyteContextManager.current_context().new_builder()):
        yield RecordedLog()


def test_a_member_without_epochs_has_a_page_of_its_facts_and_no_curves(log, tmp_path):
    epochs, deck = log_fit("bag", fitted([], features=123), {"ngram_bits": 18}, tmp_path, log)
    assert json.loads(Path(epochs.path).read_text()) == []
    assert log.figures == []
    assert log.pages == ["fit_bag.html"]
    page = Path(deck.path).read_text()
    for told in ("Member bag", "ngram_bits", "features", "rows scored unseen</td><td>3<", "machine"):
        assert told in page


def test_a_networks_epochs_are_kept_without_what_is_no_number(log, tmp_path):
    made = [*epochs_of(2), *refitted(1)]
    epochs, deck = log_fit("lstm", fitted(made), {"epochs": 0, "batch_size": 64, "patience": 0}, tmp_path, log)
    kept = json.loads(Path(epochs.path).read_text(), parse_constant=pytest.fail)
    assert [epoch["number"] for epoch in kept] == [1, 2, 1]
    assert kept[1]["valid_loss"] == made[1].valid_loss
    assert kept[2]["valid_loss"] is None
    assert log.figures == ["curves"]
    page = Path(deck.path).read_text()
    assert "<td>epochs</td><td>chosen</td>" in page
    assert "<td>patience</td><td>0</td>" in page


def test_every_epoch_is_a_point_and_later_trainings_have_names_of_their_own(log):
    send = log_epoch(log)
    for epoch in [*epochs_of(2), *refitted(1)]:
        send(epoch)
    steps, values = zip(*log.points, strict=True)
    assert steps == (1, 2, 1)
    assert values[1]["valid_loss"] == epochs_of(2)[1].valid_loss
    assert values[2]["2_train_loss"] == epochs_of(1)[0].train_loss
    assert not any("valid_loss" in name or name == "train_loss" for name in values[2])
