"""The log-linear pool: what its fit finds, and what it answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score

from rakuten_tasks.evaluation.calibration import PRIOR_ROWS, fit_weights
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from tests.support.pool_cases import CLASSES, MODALITY, PRIOR, case, evidence, labels_of, only


def log_likelihood(weights, scores, labels):
    """With PRIOR_ROWS more rows, spread over all, of the equal pool."""
    rows = len(labels)
    prior = softmax(scores.mean(0), axis=1) * PRIOR_ROWS / rows
    target = prior + np.eye(CLASSES)[labels]
    return float((target * log_softmax(np.tensordot(weights, scores, 1), axis=1)).sum())


def log_loss(probabilities, labels):
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("rows", [3, 40, 1000])
def test_no_other_weights_have_a_higher_likelihood(rows):
    labels = labels_of(rows)
    scores = np.stack([evidence(labels, signal, i) for i, signal in enumerate((2.0, 1.5, 0.3))])
    weights = fit_weights(scores, labels)
    best = log_likelihood(weights, scores, labels)
    random = np.random.default_rng(0)
    for size in (0.003, 0.05, 0.5):
        for _ in range(30):
            other = np.maximum(weights + size * random.normal(size=3), 0)
            assert log_likelihood(other, scores, labels) <= best + 1e-6 * rows


def test_the_likelihood_is_concave_in_the_weights():
    labels = labels_of(200)
    scores = np.stack([evidence(labels, 1.5, 0), evidence(labels, 1.0, 1)])
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = 3 * random.random((2, 2))
        ends = (log_likelihood(first, scores, labels) + log_likelihood(second, scores, labels)) / 2
        assert log_likelihood((first + second) / 2, scores, labels) >= ends - 1e-9


def test_independent_members_each_keep_the_weight_that_calibrates_them_alone():
    logits, labels = case(6000)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    for name, signal in zip(MODALITY, (2.0, 1.5, 1.2), strict=True):
        assert pool.scales[name] == pytest.approx(signal, rel=0.08)
        assert pool.weights["text+photo"][name] == pytest.approx(signal, rel=0.12)


def test_a_members_own_scale_does_not_matter():
    logits, labels = case(500)
    scaled = Logits({**logits.by_member, "bag": 40 * logits.by_member["bag"]}, logits.available)
    one, other = (fit_pool(each, labels, MODALITY, PRIOR) for each in (logits, scaled))
    np.testing.assert_allclose(other.probabilities(scaled), one.probabilities(logits), atol=1e-3)
    assert other.weights["text"]["bag"] == pytest.approx(one.weights["text"]["bag"] / 40, rel=0.01)


def test_a_superfluous_member_has_nearly_no_weight():
    logits, labels = case(3000)
    noise = np.random.default_rng(5).normal(size=logits.by_member["lstm"].shape).astype(np.float32)
    worse = logits.by_member["bag"] + 2 * noise  # tells what the bag tells, less clearly
    for useless in (noise, worse):
        pool = fit_pool(Logits({**logits.by_member, "lstm": useless}, logits.available), labels, MODALITY, PRIOR)
        assert pool.weights["text+photo"]["lstm"] < 0.03 * pool.weights["text+photo"]["bag"]


def test_members_that_tell_the_same_share_the_weight_of_one():
    logits, labels = case(3000)
    twins = Logits({**logits.by_member, "lstm": logits.by_member["bag"]}, logits.available)
    weights = fit_pool(twins, labels, MODALITY, PRIOR).weights["text"]
    assert weights["bag"] + weights["lstm"] == pytest.approx(2.0, rel=0.08)


def test_no_weight_is_below_zero_even_of_a_member_that_is_always_wrong():
    logits, labels = case(300)
    wrong = Logits({**logits.by_member, "lstm": -logits.by_member["bag"]}, logits.available)
    pool = fit_pool(wrong, labels, MODALITY, PRIOR)
    assert all(weight >= 0 for weights in pool.weights.values() for weight in weights.values())
    assert pool.weights["text"]["lstm"] == 0


def test_what_a_product_has_decides_which_members_answer():
    logits, labels = case(400)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    assert {key: list(weights) for key, weights in pool.weights.items()} == {
        "text": ["bag", "lstm"],
        "photo": ["photo"],
        "text+photo": ["bag", "lstm", "photo"],
    }
    four = logits.take(np.arange(4))
    text, photo = [True, True, False, False], [True, False, True, False]
    answers = pool.probabilities(only(four, bag=text, lstm=text, photo=photo))
    for row, key in enumerate(["text+photo", "text", "photo"]):
        expected = softmax(sum(w * four.by_member[name][row] for name, w in pool.weights[key].items()))
        np.testing.assert_allclose(answers[row], expected, rtol=1e-5)
    np.testing.assert_allclose(answers[3], PRIOR)
    np.testing.assert_allclose(answers.sum(1), 1)


def test_a_product_gets_the_same_answer_alone_and_among_others():
    logits, labels = case(60, available={"bag": 0.8, "photo": 0.6})
    logits = only(logits, bag=logits.available["bag"], lstm=logits.available["bag"], photo=logits.available["photo"])
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    together = pool.probabilities(logits)
    alone = np.concatenate([pool.probabilities(logits.take(np.array([row]))) for row in range(60)])
    np.testing.assert_array_equal(together, alone)
    members = np.concatenate([pool.alone(logits.take(np.array([row])), "bag") for row in range(60)])
    np.testing.assert_array_equal(pool.alone(logits, "bag"), members)


def test_a_member_alone_is_calibrated_and_the_prior_where_it_has_nothing_to_look_at():
    logits, labels = case(4000)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    masked = only(logits, **{**logits.available, "photo": np.arange(4000) > 0})
    alone = pool.alone(masked, "photo")
    np.testing.assert_allclose(alone[0], PRIOR)
    assert alone[1:].max(1).mean() == pytest.approx((alone[1:].argmax(1) == labels[1:]).mean(), abs=0.02)


def test_without_photos_the_pool_says_what_it_says_of_text_alone():
    logits, labels = case(300)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    np.testing.assert_array_equal(
        pool.text_only(logits), pool.probabilities(only(logits, **{**logits.available, "photo": np.zeros(300, bool)}))
    )


@pytest.mark.parametrize("kind", ["text", "photo"])
def test_members_of_one_modality_make_a_pool_of_one_set(kind):
    logits, labels = case(200)
    pool = fit_pool(logits, labels, dict.fromkeys(MODALITY, kind), PRIOR)
    assert list(pool.weights) == [kind]
    assert pool.text_only(logits) is None
    np.testing.assert_allclose(pool.probabilities(logits).sum(1), 1)


def test_without_rows_members_have_equal_parts():
    logits, labels = case(0)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    assert pool.scales == dict.fromkeys(MODALITY, 1.0)
    assert pool.weights["text"] == {"bag": 0.5, "lstm": 0.5}
    assert pool.weights["photo"] == {"photo": 1.0}
    assert pool.weights["text+photo"] == pytest.approx(dict.fromkeys(MODALITY, 1 / 3))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_handful_of_right_answers_does_not_end_in_certainty(rows):
    labels = np.arange(rows) % CLASSES
    right = np.eye(CLASSES)[labels] * 3
    one = fit_weights(right[None], labels)[0]
    assert 1 < one < 2.5


def test_the_prior_fades_as_rows_come():
    """The same flat truth: calibrated members that know nothing, and the weight they are left."""
    left = []
    for rows in (10, 100, 1000):
        labels = labels_of(rows)
        noise = 2 * np.random.default_rng(1).normal(size=(rows, CLASSES))
        left.append(fit_weights(noise[None], labels)[0])
    assert left[0] > left[1] > left[2]
    assert left[2] < 0.1


def test_twenty_rows_are_enough_to_be_better_than_any_member_at_its_best():
    """On new rows, by log loss, the mean of ten draws."""
    lost = []
    for seed in range(10):
        logits, labels = case(520, seed, signals=(2.0, 2.0, 2.0))
        few, new = np.arange(20), np.arange(20, 520)
        pool = fit_pool(logits.take(few), labels[few], MODALITY, PRIOR)
        members = [log_loss(softmax(2.0 * scores[new], axis=1), labels[new]) for scores in logits.by_member.values()]
        lost.append(log_loss(pool.probabilities(logits.take(new)), labels[new]) - min(members))
    assert np.mean(lost) < -0.1


def test_a_network_that_was_held_out_on_few_rows_joins_the_pool_of_the_others():
    logits, labels = case(4000)
    few = np.arange(4000) < 300
    held_out = only(logits, **{**logits.available, "lstm": few})
    pool = fit_pool(held_out, labels, MODALITY, PRIOR)

    def two(logits):
        return Logits(*({n: part[n] for n in ("bag", "photo")} for part in (logits.by_member, logits.available)))

    without = fit_pool(two(logits), labels, {"bag": "text", "photo": "photo"}, PRIOR)
    joint, former = pool.weights["text+photo"], without.weights["text+photo"]
    assert joint["bag"] / joint["photo"] == pytest.approx(former["bag"] / former["photo"], rel=1e-3)  # of all rows
    assert joint["lstm"] == pytest.approx(1.5, rel=0.3)
    new, truth = case(3000, seed=1)
    assert log_loss(pool.probabilities(new), truth) < log_loss(without.probabilities(two(new)), truth) - 0.05


def test_a_network_that_scored_no_row_gets_no_weight_beside_others():
    logits, labels = case(500)
    pool = fit_pool(only(logits, **{**logits.available, "lstm": np.zeros(500, bool)}), labels, MODALITY, PRIOR)
    assert pool.weights["text"]["lstm"] == pool.weights["text+photo"]["lstm"] == 0
    assert pool.weights["text+photo"]["bag"] > 1


def test_the_pool_is_hardly_ever_below_its_best_member():
    """Of twenty catalogues of 400 rows with members of any quality, on new rows."""
    below = []
    for seed in range(20):
        signals = 3 * np.random.default_rng((seed, 3)).random(3)
        logits, labels = case(2400, seed, signals)
        fit, new = np.arange(400), np.arange(400, 2400)
        pool = fit_pool(logits.take(fit), labels[fit], MODALITY, PRIOR)
        unseen = logits.take(new)
        answers = {name: pool.alone(unseen, name) for name in MODALITY} | {"pool": pool.probabilities(unseen)}
        f1 = {name: f1_score(labels[new], p.argmax(1), average="weighted") for name, p in answers.items()}
        below.append(max(f1[name] for name in MODALITY) - f1["pool"])
    assert max(below) < 0.002


def test_a_pool_survives_json():
    logits, labels = case(100)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    assert Pool.from_json(json.dumps(pool.to_dict())) == pool


def test_the_same_rows_give_the_same_pool_in_any_order():
    logits, labels = case(300)
    order = np.random.default_rng(0).permutation(300)
    one, other = fit_pool(logits, labels, MODALITY, PRIOR), fit_pool(logits.take(order), labels[order], MODALITY, PRIOR)
    assert fit_pool(logits, labels, MODALITY, PRIOR) == one
    for key, weights in one.weights.items():
        assert other.weights[key] == pytest.approx(weights, rel=1e-3, abs=1e-4)
