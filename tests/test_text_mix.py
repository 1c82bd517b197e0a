import numpy as np
import pytest
from rakuten_tasks.classifier.calibration import fit_temperature
from rakuten_tasks.classifier.text_mix import FLAT, fit_curve, fit_mix
from scipy.special import log_expit, log_softmax


def logits_of(labels, sure, right, seed):
    """Logits that name the right class with probability `right`."""
    random = np.random.default_rng(seed)
    named = np.where(random.random(len(labels)) < right, labels, random.integers(0, 3, len(labels)))
    return sure * np.eye(3)[named] + random.normal(size=(len(labels), 3))


def test_an_lstm_that_knows_nothing_is_left_out():
    labels = np.arange(60) % 3
    mix = fit_mix(logits_of(labels, 3, 0.8, 0), np.random.default_rng(1).normal(size=(60, 3)), labels)
    assert mix.bag == 1
    assert mix.lstm == 0


def test_on_a_handful_of_rows_the_lstm_is_left_out_whatever_it_answered():
    labels = np.arange(5) % 3
    mix = fit_mix(logits_of(labels, 3, 0.6, 0), logits_of(labels, 3, 1.0, 1), labels)
    assert mix.bag == 1
    assert mix.lstm == 0


def test_an_lstm_that_knows_what_the_bag_does_not_is_mixed_in():
    labels = np.arange(300) % 3
    mix = fit_mix(logits_of(labels, 3, 0.6, 0), logits_of(labels, 3, 0.6, 1), labels)
    assert mix.bag > 0
    assert mix.lstm > 0


def drawn(chances, seed):
    """A label for each row of chances."""
    random = np.random.default_rng(seed)
    return np.array([random.choice(len(row), p=row) for row in chances])


def loss(logits, labels):
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def test_scores_of_a_squared_hinge_become_chances():
    chances = np.random.default_rng(0).dirichlet([0.2] * 5, size=2000)
    hinge = 2 * chances - 1  # what minimises the squared hinge
    labels = drawn(chances, 1)
    fit, unseen = slice(1000), slice(1000, 2000)
    slope, offset = fit_curve(hinge[fit], labels[fit])
    bent = loss(log_expit(slope * hinge + offset)[unseen], labels[unseen])
    plain = loss(hinge[unseen] / fit_temperature(hinge[fit], labels[fit]), labels[unseen])
    best = loss(np.log(np.maximum(chances[unseen], 1e-12)), labels[unseen])
    assert bent - best < 0.7 * (plain - best)


@pytest.mark.parametrize("rows", [40, 400])
def test_scores_that_a_temperature_fits_stay_as_they_are(rows):
    logits = np.random.default_rng(2).normal(size=(rows + 1000, 4)) * 2
    labels = drawn(np.exp(log_softmax(logits, axis=1)), 3)
    slope, offset = fit_curve(logits[:rows], labels[:rows])
    bent = loss(log_expit(slope * logits + offset)[rows:], labels[rows:])
    plain = loss(logits[rows:] / fit_temperature(logits[:rows], labels[:rows]), labels[rows:])
    assert bent < plain + 0.02


def test_one_class_alone_cannot_bend_the_curve_out_of_bounds():
    slope, offset = fit_curve(np.full((50, 2), [1.0, -1.0]), np.zeros(50, dtype=np.int64))
    assert np.isfinite([slope, offset]).all()
    assert FLAT < offset <= 6
