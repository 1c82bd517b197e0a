"""What the pool is made of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from rakuten_tasks.models.cascade import CascadePoint, StageReport
from rakuten_tasks.models.pool import Logits, fit_pool
from rakuten_tasks.models.pool_report import PoolReport, relative_weights, report_pool
from tests.support.pool_cases import CLASSES, MODALITY, PRIOR, case, only


def without(logits: Logits, name: str) -> Logits:
    return Logits(
        {n: scores for n, scores in logits.by_member.items() if n != name},
        {n: mask for n, mask in logits.available.items() if n != name},
    )


@pytest.fixture(scope="module")
def made():
    """The LSTM was held out on an eighth of the rows, and one product in five has no photo."""
    logits, labels = case(2000)
    masks = {**logits.available, "lstm": np.arange(2000) % 8 == 0, "photo": np.arange(2000) % 5 > 0}
    logits = only(logits, **masks)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    return logits, labels, pool, report_pool(pool, logits, labels)


def test_all_are_compared_on_the_rows_that_all_have_scored(made):
    logits, labels, pool, report = made
    rows = np.flatnonzero(np.logical_and.reduce(list(logits.available.values())))
    assert report.rows == len(rows) == 200
    assert {name: member.scored for name, member in report.members.items()} == {"bag": 2000, "lstm": 250, "photo": 1600}
    answers = pool.probabilities(logits.take(rows))
    assert report.pool.log_loss == pytest.approx(log_loss(labels[rows], answers, labels=range(CLASSES)))
    assert report.pool.weighted_f1 == pytest.approx(f1_score(labels[rows], answers.argmax(1), average="weighted"))


def test_a_member_alone_is_what_it_says_calibrated(made):
    logits, labels, pool, report = made
    rows = np.flatnonzero(np.logical_and.reduce(list(logits.available.values())))
    alone = pool.alone(logits.take(rows), "photo")
    assert report.members["photo"].alone.log_loss == pytest.approx(log_loss(labels[rows], alone, labels=range(CLASSES)))
    assert report.members["photo"].modality == "photo"


def test_what_a_member_adds_is_against_the_others_fitted_again(made):
    logits, labels, _, report = made
    rows = np.flatnonzero(np.logical_and.reduce(list(logits.available.values())))
    rest = without(logits, "photo")
    again = fit_pool(rest, labels, {"bag": "text", "lstm": "text"}, PRIOR).probabilities(rest.take(rows))
    loss = log_loss(labels[rows], again, labels=range(CLASSES))
    assert report.members["photo"].without.log_loss == pytest.approx(loss)
    gain = report.adds("photo")
    assert gain[0] == pytest.approx(loss - report.pool.log_loss)
    assert gain[1] == pytest.approx(
        report.pool.weighted_f1 - f1_score(labels[rows], again.argmax(1), average="weighted")
    )
    assert gain[0] > 0.05


def test_the_best_member_is_the_one_of_least_log_loss(made):
    *_, report = made
    losses = {name: member.alone.log_loss for name, member in report.members.items()}
    assert report.best == min(losses, key=losses.get) == "bag"


def test_weights_are_told_relative_to_a_member_alone(made):
    _, _, pool, report = made
    assert report.weights == relative_weights(pool)
    assert report.weights["photo"]["photo"] == pytest.approx(1.0, rel=0.01)
    assert report.weights["text"]["bag"] == pytest.approx(pool.weights["text"]["bag"] / pool.scales["bag"])


def test_a_member_that_scored_nothing_is_left_out_of_the_comparison():
    logits, labels = case(300)
    logits = only(logits, **{**logits.available, "photo": np.zeros(300, bool)})
    report = report_pool(fit_pool(logits, labels, MODALITY, PRIOR), logits, labels)
    assert report.rows == 300
    photo = report.members["photo"]
    assert (photo.scored, photo.alone, photo.without, report.adds("photo")) == (0, None, None, None)
    assert report.adds("bag")[0] > 0


def test_where_no_row_was_scored_by_all_nothing_is_compared():
    logits, labels = case(300)
    logits = only(logits, **{**logits.available, "lstm": np.arange(300) < 9, "photo": np.arange(300) > 20})
    report = report_pool(fit_pool(logits, labels, MODALITY, PRIOR), logits, labels)
    assert (report.rows, report.pool, report.best) == (0, None, None)
    assert len(report.weights["text+photo"]) == 3


def test_a_pool_of_one_member_is_that_member():
    logits, labels = case(300)
    bag = Logits({"bag": logits.by_member["bag"]}, {"bag": logits.available["bag"]})
    report = report_pool(fit_pool(bag, labels, {"bag": "text"}, PRIOR), bag, labels)
    assert report.members["bag"].without is None
    assert report.pool.log_loss == pytest.approx(report.members["bag"].alone.log_loss, rel=0.01)
    assert report.weights == {"text": {"bag": pytest.approx(1.0, rel=0.1)}}


def test_no_rows_at_all_have_a_report():
    logits, labels = case(0)
    report = report_pool(fit_pool(logits, labels, MODALITY, PRIOR), logits, labels)
    assert (report.rows, report.pool) == (0, None)


def test_scores_that_are_all_the_same_have_weight_zero_or_say_nothing():
    logits, labels = case(300)
    flat = Logits({**logits.by_member, "lstm": np.zeros((300, CLASSES), np.float32)}, logits.available)
    report = report_pool(fit_pool(flat, labels, MODALITY, PRIOR), flat, labels)
    assert report.adds("lstm") == pytest.approx((0, 0), abs=0.02)
    assert np.isfinite(report.weights["text"]["lstm"])


def test_a_report_survives_json(made):
    *_, report = made
    assert PoolReport.from_json(json.dumps(report.to_dict())) == report


def test_the_metrics_are_the_weights_and_the_thresholds_that_were_chosen_with_what_they_settle(made):
    *_, pool, report = made
    points = [CascadePoint(0.9, 0.4, 0.8, 0.03), CascadePoint(0.8, 0.5, 0.8, 0.03)]
    chosen = StageReport("text+photo", "words", 400, 0.8, 0.03, points, threshold=0.8)
    nothing = replace(chosen, stage="sentences", threshold=None)
    before, after = (replace(report, stages=stages).metrics(pool) for stages in ([], [nothing, chosen]))
    assert before["weight_bag_text_photo"] == pool.weights["text+photo"]["bag"]
    assert dict(after.items() - before.items()) == {
        "threshold_words_text_photo": 0.8, "coverage_words_text_photo": 0.5,
    }  # fmt: skip
