"""The thresholds from which the cheap members are enough, and what they cost."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rakuten_tasks.evaluation.bootstrap import weighted_f1
from rakuten_tasks.evaluation.metrics import reliability
from rakuten_tasks.models.cascade import MAX_ECE_RISE, MAX_F1_LOSS, MIN_ROWS, learn_cascade
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from tests.support.pool_cases import PRIOR, case, evidence, labels_of, only

MODALITY = {"bag": "text", "lstm": "text", "encoder": "text", "photo": "photo"}
CHEAP = ("bag", "lstm")


def clear_and_vague(rows: int, seed: int = 0) -> tuple[Logits, np.ndarray]:
    """Half of the texts name their class; of the others the encoder knows something and the photo a lot."""
    labels, draw = labels_of(rows, seed), np.random.default_rng((seed, 5))
    clear = draw.random((rows, 1)) < 0.5
    signals = {"bag": (12.0, 0.2), "lstm": (6.0, 0.1), "encoder": (12.0, 1.0), "photo": (3.0, 3.0)}
    by_member = {
        name: np.where(clear, evidence(labels, high, (seed, i)), evidence(labels, low, (seed, i))).astype(np.float32)
        for i, (name, (high, low)) in enumerate(signals.items())
    }
    return Logits(by_member, {name: np.ones(rows, dtype=bool) for name in by_member}), labels


def fit(logits: Logits, labels: np.ndarray) -> Pool:
    return fit_pool(logits, labels, MODALITY, PRIOR)


def test_new_rows_lose_nothing_though_their_photos_are_skipped():
    logits, labels = clear_and_vague(3000)
    pool, _ = learn_cascade(fit(logits, labels), logits, labels, CHEAP)
    new, truth = clear_and_vague(3000, seed=1)
    served = pool.cascade(new)
    assert 0.3 < 1 - served.available["photo"].mean() < 0.55  # half of the texts are clear
    before, after = pool.probabilities(new), pool.probabilities(served)
    assert weighted_f1(truth, after.argmax(1)) >= weighted_f1(truth, before.argmax(1)) - MAX_F1_LOSS
    assert reliability(after, truth).ece <= reliability(before, truth).ece + MAX_ECE_RISE


def test_without_early_stages_the_pool_is_what_it_was():
    logits, labels = clear_and_vague(1000)
    whole = fit(logits, labels)
    pool, _ = learn_cascade(whole, logits, labels, CHEAP)
    assert set(pool.weights) - set(whole.weights) <= {"words", "sentences"}
    np.testing.assert_array_equal(pool.probabilities(logits), whole.probabilities(logits))
    assert whole.cascade(logits).available["photo"].all()


def test_a_chosen_threshold_and_all_above_it_lose_at_most_the_bounds():
    logits, labels = clear_and_vague(2000)
    pool, reports = learn_cascade(fit(logits, labels), logits, labels, CHEAP)
    both = [report for report in reports if report.modalities == "text+photo"]
    assert [report.stage for report in both] == ["text", "words"]  # the dearest is chosen first
    whole_f1, whole_ece = both[0].weighted_f1, both[0].ece
    for report in both:
        assert pool.thresholds["text+photo"][report.stage] == report.threshold == report.chosen.threshold
        for point in report.points:
            if point.threshold >= report.threshold:
                assert point.weighted_f1 >= whole_f1 - MAX_F1_LOSS
                assert point.ece <= whole_ece + MAX_ECE_RISE


def test_members_that_know_little_settle_nothing():
    logits, labels = case(2000, signals=(0.5, 0.4, 3.0))
    modality = {"bag": "text", "lstm": "text", "photo": "photo"}
    pool, (report,) = learn_cascade(fit_pool(logits, labels, modality, PRIOR), logits, labels, CHEAP)
    coverage = 0.0 if report.chosen is None else report.chosen.coverage
    assert coverage < 0.1
    assert pool.cascade(logits).available["photo"].mean() > 0.9


@pytest.mark.parametrize("rows", [0, 1, MIN_ROWS - 1])
def test_few_rows_prove_nothing(rows):
    logits, labels = clear_and_vague(rows)
    whole = fit(logits, labels)
    assert learn_cascade(whole, logits, labels, CHEAP) == (whole, [])


def test_a_network_with_few_rows_answers_after_the_stages_of_those_with_many():
    logits, labels = clear_and_vague(2000)
    logits = only(logits, **{**logits.available, "lstm": np.arange(2000) < 200})
    pool, reports = learn_cascade(fit(logits, labels), logits, labels, CHEAP)
    assert {report.rows for report in reports} == {2000}
    assert list(pool.weights["words"]) == ["bag"]
    assert list(pool.weights["sentences"]) == ["bag", "encoder"]
    assert list(pool.stages.items()) == [
        ("words", ["bag"]),
        ("sentences", ["encoder"]),
        ("text", ["lstm"]),
        ("photo", ["photo"]),
    ]


def test_a_product_is_settled_alone_as_among_others_and_by_what_it_has():
    logits, labels = clear_and_vague(900)
    pool, _ = learn_cascade(fit(logits, labels), logits, labels, CHEAP)
    texts = np.arange(900) % 3 > 0
    masks = {name: texts if kind == "text" else np.arange(900) % 3 != 1 for name, kind in MODALITY.items()}
    some = only(logits, **masks)
    together = pool.cascade(some)
    for row in range(60):
        alone = pool.cascade(some.take(np.array([row])))
        for name in MODALITY:
            assert alone.available[name][0] == together.available[name][row]
    np.testing.assert_array_equal(together.available["photo"][~texts], masks["photo"][~texts])
    assert not together.available["encoder"][texts].all()


def test_a_cascade_survives_json():
    logits, labels = clear_and_vague(600)
    pool, _ = learn_cascade(fit(logits, labels), logits, labels, CHEAP)
    assert pool.thresholds
    assert Pool.from_json(json.dumps(pool.to_dict())) == pool
