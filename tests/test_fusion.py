import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from rakuten_tasks.classifier.calibration import FLOORS, TEMPERATURES, calibrate, fit_floor, fit_temperature
from rakuten_tasks.classifier.fusion import Fusion, Logits, WeightSearch, best_weight, fit_fusion


def weighted_f1(labels, predicted):
    return f1_score(labels, predicted, average="weighted", zero_division=0)


def score_at(search: WeightSearch, weight: float) -> float:
    return search.scores[np.searchsorted(search.edges, weight, side="right") - 1]


def every_crossing(first, second):
    """All weights inside (0, 1) where any two classes of any row meet: K (K - 1) / 2 for each row."""
    gap, rise = (m[:, :, None] - m[:, None, :] for m in (second, second - first))
    meet = gap[rise != 0] / rise[rise != 0]
    return np.unique(np.concatenate(([0.0], meet[(meet > 0) & (meet < 1)], [1.0])))


def exhaustive(first, second, labels):
    """Weighted F1 at the middle of every interval between crossings."""
    edges = every_crossing(first, second)
    middles = (edges[1:] + edges[:-1]) / 2
    return middles, np.array([weighted_f1(labels, (w * first + (1 - w) * second).argmax(1)) for w in middles])


@st.composite
def branches_with_ties(draw):
    """Scores in eighths, so that ties are many and exact; some rows are repeated, sometimes the branches are equal."""
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([1, 2, 8]))
    first, second = random.integers(0, steps + 1, size=(2, rows, classes)) / 8
    labels = random.integers(0, classes, size=rows)
    repeated = random.integers(0, rows, size=draw(st.integers(0, 6)))
    if draw(st.integers(0, 9)) == 0:
        second = first.copy()
    both = [np.concatenate([values, values[repeated]]) for values in (first, second, labels)]
    return both[0], both[1], both[2]


@settings(max_examples=50, deadline=None)
@given(branches_with_ties())
def test_the_exact_search_finds_what_exhaustive_search_over_all_crossings_finds(case):
    first, second, labels = case
    search = best_weight(first, second, labels)
    weights, scores = exhaustive(first, second, labels)
    assert search.optimum == pytest.approx(scores.max(), abs=1e-12)
    np.testing.assert_allclose([score_at(search, w) for w in weights], scores, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(branches_with_ties())
def test_the_plateau_is_all_that_lies_within_a_standard_error_around_the_optimum(case):
    search = best_weight(*case)
    middles = (search.edges[1:] + search.edges[:-1]) / 2
    good = search.scores >= search.optimum - search.standard_error - 1e-9
    inside = (search.low < middles) & (middles < search.high)
    assert good[inside].all()
    assert search.scores[inside].max() == pytest.approx(search.optimum, abs=1e-12)
    assert search.weight == (search.low + search.high) / 2
    assert not good[middles < search.low][-1:].any()
    assert not good[middles > search.high][:1].any()


def made_up(rows, classes, signal, seed):
    """Labels, and logits that a temperature of 1 calibrates."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, size=rows)
    evidence = random.normal(size=(rows, classes))
    evidence[np.arange(rows), labels] += signal
    return evidence * signal, labels


def test_the_search_agrees_with_sklearn_on_ordinary_probabilities():
    text, labels = made_up(400, 7, 1.5, seed=0)
    photo, _ = made_up(400, 7, 1.0, seed=0)
    first, second = calibrate(text, 1), calibrate(photo[::-1], 1)
    search = best_weight(first, second, labels)
    for weight in np.linspace(0.003, 0.997, 50):
        expected = weighted_f1(labels, (weight * first + (1 - weight) * second).argmax(1))
        assert score_at(search, weight) == pytest.approx(expected, abs=1e-12)


def test_identical_branches_share_the_weight():
    scores, labels = made_up(30, 4, 2.0, seed=1)
    search = best_weight(scores, scores, labels)
    assert (search.low, search.weight, search.high) == (0.0, 0.5, 1.0)
    assert search.optimum == pytest.approx(weighted_f1(labels, scores.argmax(1)))


def test_a_perfect_score_by_luck_does_not_decide_the_weight_alone():
    labels = np.arange(40) % 2
    first, second = calibrate(np.eye(2)[labels] * 4, 1), np.full((40, 2), 0.5)
    # the first branch errs on one row, which the second mends if its weight is large
    first[0], second[0] = [0.1, 0.9], [0.6, 0.4]
    search = best_weight(first, second, labels)
    assert search.optimum == 1.0
    assert (search.low, search.high) == (0.0, 1.0)


def test_without_rows_the_first_branch_has_all_the_weight():
    assert best_weight(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, int)).weight == 1.0


def test_a_photo_branch_at_chance_on_forty_rows_takes_nothing_from_the_text():
    losses = []
    for seed in range(20):
        text, labels = made_up(2040, 8, 2.5, seed)
        photo = np.random.default_rng((seed, 1)).normal(size=text.shape)
        text, photo = calibrate(text, 1), calibrate(photo, fit_temperature(photo[:40], labels[:40]))
        weight = best_weight(text[:40], photo[:40], labels[:40]).weight
        fused = (weight * text + (1 - weight) * photo)[40:].argmax(1)
        losses.append(weighted_f1(labels[40:], text[40:].argmax(1)) - weighted_f1(labels[40:], fused))
    assert np.mean(losses) < 0.002


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_is_the_one_that_spoilt_the_logits(temperature):
    logits, labels = made_up(4000, 5, 1.5, seed=2)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.07)


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_a_handful_of_right_answers_does_not_end_in_certainty(rows):
    logits, labels = np.eye(3)[np.arange(rows) % 3] * 2, np.arange(rows) % 3
    assert TEMPERATURES[0] * 4 < fit_temperature(logits, labels) < 1


def test_a_branch_that_knows_nothing_is_made_nearly_flat():
    logits = np.random.default_rng(0).normal(size=(500, 4)) * 5
    labels = np.random.default_rng(1).integers(0, 4, size=500)
    assert calibrate(logits, fit_temperature(logits, labels)).max() < 0.6


def test_no_rows_leave_the_temperature_at_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_of_zero_or_less_is_refused(temperature):
    with pytest.raises(ValueError, match="above 0, as fit_temperature gives it"):
        calibrate(np.zeros((1, 2)), temperature)


def test_calibrated_rows_sum_to_one_even_for_huge_logits():
    np.testing.assert_allclose(calibrate(np.array([[1e4, -1e4, 0.0], [1, 2, 3]]), 0.05).sum(1), 1)


FUSION = Fusion(
    temperatures={"text": 2.0, "photo": 0.5},
    weights={"text": 0.75, "photo": 0.25},
    fused_temperature=0.5,
    prior=[0.5, 0.3, 0.2],
)
TEXT, PHOTO = np.array([[2.0, 0, 1]] * 4), np.array([[0.0, 1, 0.5]] * 4)
SEEN = {"text": np.array([True, True, False, False]), "photo": np.array([True, False, True, False])}


def test_each_product_is_answered_by_the_branches_that_saw_it():
    text, photo = calibrate(TEXT, 2.0)[0], calibrate(PHOTO, 0.5)[0]
    both = (0.75 * text + 0.25 * photo) ** 2
    answers = FUSION.probabilities({"text": TEXT, "photo": PHOTO}, SEEN)
    np.testing.assert_allclose(answers, [both / both.sum(), text, photo, [0.5, 0.3, 0.2]])


def test_the_floor_is_spread_over_what_several_branches_answer_and_over_nothing_else():
    floored = dataclasses.replace(FUSION, fused_floor=0.3)
    before, after = (f.probabilities({"text": TEXT, "photo": PHOTO}, SEEN) for f in (FUSION, floored))
    np.testing.assert_allclose(after[0], 0.7 * before[0] + 0.1)
    np.testing.assert_allclose(after[1:], before[1:])


def test_one_branch_asked_alone_answers_at_its_own_temperature():
    answers = FUSION.probabilities({"photo": PHOTO}, {"photo": SEEN["photo"]})
    np.testing.assert_allclose(answers[:2], [calibrate(PHOTO, 0.5)[0], [0.5, 0.3, 0.2]])


def test_a_branch_of_weight_zero_answers_for_what_only_it_saw():
    fusion = Fusion({"text": 1.0, "photo": 1.0}, {"text": 1.0, "photo": 0.0}, 1.0, [0.2, 0.2, 0.6])
    answers = fusion.probabilities({"text": TEXT, "photo": PHOTO}, SEEN)
    np.testing.assert_allclose(answers[[0, 2]], [calibrate(TEXT, 1)[0], calibrate(PHOTO, 1)[0]])


def test_of_three_branches_those_present_share_the_weight():
    fusion = Fusion(dict.fromkeys("abc", 1.0), {"a": 0.5, "b": 0.3, "c": 0.2}, 1.0, [0.5, 0.5])
    logits = {name: np.array([[float(i), 0.0]]) for i, name in enumerate("abc")}
    present = {"a": np.array([True]), "b": np.array([False]), "c": np.array([True])}
    expected = (0.5 * calibrate(logits["a"], 1) + 0.2 * calibrate(logits["c"], 1)) / 0.7
    np.testing.assert_allclose(fusion.probabilities(logits, present), expected)


def test_a_fusion_survives_json():
    floored = dataclasses.replace(FUSION, fused_floor=0.1)
    assert Fusion.from_json(json.dumps(floored.to_dict())) == floored


def test_a_fusion_from_before_floors_has_none():
    former = FUSION.to_dict()
    del former["fused_floor"]
    assert Fusion.from_json(json.dumps(former)) == FUSION


def test_confident_mistakes_get_a_floor_and_not_doubt_about_everything():
    logits, labels = made_up(4000, 5, 2.0, 0)
    wrong = np.random.default_rng(1).random(4000) < 0.1
    labels[wrong] = np.random.default_rng(2).integers(5, size=wrong.sum())
    fit, unseen = slice(2000), slice(2000, 4000)
    temperature, floor = fit_floor(4 * logits[fit], labels[fit])
    assert temperature == pytest.approx(4.0, rel=0.15)
    assert floor == pytest.approx(0.1, abs=0.03)
    rows = np.arange(2000)
    plain = calibrate(4 * logits[unseen], fit_temperature(4 * logits[fit], labels[fit]))[rows, labels[unseen]]
    floored = calibrate(4 * logits[unseen], temperature, floor)[rows, labels[unseen]]
    assert np.log(floored).mean() > np.log(plain).mean() + 0.02


def test_where_a_temperature_suffices_there_is_no_floor():
    assert [fit_floor(*made_up(rows, 5, 2.0, rows))[1] for rows in (0, 1, 3, 20, 2000)] == [0.0] * 5


@pytest.mark.parametrize("floor", [-0.1, 1.0, float("nan")])
def test_a_floor_out_of_range_is_refused(floor):
    with pytest.raises(ValueError, match="floor="):
        calibrate(TEXT, 1.0, floor)


def sides(rows_a, rows_b, seen_a=True, seen_b=True, classes=4):
    """Two validation sides of a good text branch and a poorer, overconfident photo branch."""
    result = []
    for seed, (rows, seen) in enumerate(((rows_a, seen_a), (rows_b, seen_b))):
        text, labels = made_up(rows, classes, 2.0, seed)
        photo = np.random.default_rng((seed, 9)).normal(size=text.shape)
        photo[np.arange(rows), labels] += 1
        by_branch = {"text": text, "photo": photo * 3}
        result += [Logits(by_branch, {"text": np.ones(rows, bool), "photo": np.full(rows, seen)}), labels]
    return result


def test_the_fit_finds_the_temperatures_and_sharpens_the_mix():
    fusion, search = fit_fusion(*sides(3000, 3000))
    assert fusion.temperatures["text"] == pytest.approx(1.0, rel=0.1)
    assert fusion.temperatures["photo"] == pytest.approx(3.0, rel=0.15)
    assert fusion.fused_temperature < 0.95
    assert fusion.weights == {"text": search.weight, "photo": 1 - search.weight}
    np.testing.assert_allclose(fusion.prior, 0.25, atol=0.02)


def test_the_fused_temperature_lowers_the_loss_on_new_rows():
    fusion, _ = fit_fusion(*sides(1000, 1000))
    logits, labels = sides(5000, 0)[:2]
    plain = Fusion(fusion.temperatures, fusion.weights, 1.0, fusion.prior)
    after, before = (
        -np.log(f.probabilities(logits.by_branch, logits.seen)[np.arange(5000), labels]).mean() for f in (fusion, plain)
    )
    assert after < before - 0.005


@pytest.mark.parametrize(("seen_a", "seen_b"), [(False, True), (True, False), (False, False)])
def test_a_branch_absent_from_a_side_leaves_defaults_behind(seen_a, seen_b):
    fusion, _ = fit_fusion(*sides(50, 50, seen_a, seen_b))
    assert (fusion.temperatures["photo"] == 1.0) == (not seen_a)
    assert (fusion.weights["text"] == 1.0) == (not seen_b)
    assert (fusion.fused_temperature == 1.0) == (not seen_b)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_tiny_sides_give_a_usable_fusion(rows):
    fusion, _ = fit_fusion(*sides(rows, rows))
    answers = fusion.probabilities({"text": TEXT[:, :1] * np.eye(4), "photo": np.eye(4)}, SEEN)
    np.testing.assert_allclose(answers.sum(1), 1)
    assert all(TEMPERATURES[0] <= t <= TEMPERATURES[1] for t in fusion.temperatures.values())
    assert FLOORS[0] <= fusion.fused_floor <= FLOORS[1]


def test_a_side_of_one_class_is_no_obstacle():
    logits_a, labels_a, logits_b, labels_b = sides(20, 20)
    fusion, search = fit_fusion(logits_a, labels_a * 0, logits_b, labels_b * 0)
    assert 0 <= search.weight <= 1
    assert fusion.prior[0] == pytest.approx(41 / 44)


def test_the_same_rows_give_the_same_fusion():
    assert fit_fusion(*sides(200, 200))[0] == fit_fusion(*sides(200, 200))[0]


def test_a_third_branch_gets_its_weight_against_the_mix_of_the_first_two():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 900)
    views = np.eye(4)[labels]  # each branch sees the truth through noise of its own
    by_branch = {name: 2 * views + random.normal(size=views.shape) for name in ("text", "photo", "title")}
    by_branch["noise"] = random.normal(size=views.shape)

    def part(rows: slice, names: tuple[str, ...]) -> Logits:
        scores = {name: by_branch[name][rows].astype(np.float32) for name in names}
        return Logits(scores, {name: np.ones(len(labels[rows]), dtype=bool) for name in names})

    def answers(*names: str) -> tuple[Fusion, float]:
        a, b, test = (slice(i, i + 300) for i in (0, 300, 600))
        fusion, _ = fit_fusion(part(a, names), labels[a], part(b, names), labels[b])
        told = part(test, names)
        return fusion, weighted_f1(labels[test], fusion.probabilities(told.by_branch, told.seen).argmax(1))

    (two, score_of_two), (three, score_of_three) = answers("text", "photo"), answers("text", "photo", "title")
    assert sum(three.weights.values()) == pytest.approx(1)
    assert three.weights["text"] / three.weights["photo"] == pytest.approx(two.weights["text"] / two.weights["photo"])
    assert all(weight > 0.15 for weight in three.weights.values())
    assert score_of_three > score_of_two + 0.02
    useless, _ = answers("text", "photo", "noise")
    assert useless.weights["noise"] < min(three.weights.values())
