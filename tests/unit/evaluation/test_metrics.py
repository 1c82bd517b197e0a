import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_score

from rakuten_tasks.evaluation.bootstrap import (
    hard_intervals,
    log_losses,
    paired_bootstrap,
    paired_differences,
    weighted_f1,
)
from rakuten_tasks.evaluation.metrics import (
    FULL_POOL,
    Evaluation,
    evaluate,
    photo_gain,
    reliability,
)
from rakuten_tasks.reports.console_tables import evaluation_table, score_against_labels

CODES = [10, 40, 2583, 2905]


def guesses(labels, right, classes, seed):
    """Predictions of which a share `right` is right."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(labels)) < right, labels, random.integers(0, classes, size=len(labels)))


def probabilities(predicted, classes, confidence=0.7):
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[predicted] > 0, confidence, rest)


@pytest.fixture(scope="module")
def labels():
    # class 3, code 2905, has no test row
    return np.random.default_rng(0).integers(0, 3, size=300)


@pytest.fixture(scope="module")
def predicted(labels):
    return {
        name: guesses(labels, right, 4, seed)
        for seed, (name, right) in enumerate({"bag": 0.7, "photo": 0.3, "pool": 0.8, "tfidf_svm": 0.7}.items())
    }


@pytest.fixture(scope="module")
def evaluation(labels, predicted):
    return evaluate({name: probabilities(p, 4) for name, p in predicted.items()}, labels, CODES, seed=0)


@pytest.mark.parametrize("name", ["bag", "photo", "pool", "tfidf_svm"])
def test_each_metric_is_the_one_of_sklearn(evaluation, labels, predicted, name):
    system = evaluation.systems[name]
    present = np.unique(labels)
    assert system.weighted_f1.value == pytest.approx(f1_score(labels, predicted[name], average="weighted"))
    assert system.accuracy.value == pytest.approx(accuracy_score(labels, predicted[name]))
    macro = f1_score(labels, predicted[name], average="macro", labels=present)
    assert system.macro_f1.value == pytest.approx(macro)
    loss = log_loss(labels, probabilities(predicted[name], 4), labels=range(4))
    assert system.log_loss.value == pytest.approx(loss)


def test_macro_f1_leaves_out_classes_without_a_test_row(evaluation):
    f1 = [score.f1 for score in evaluation.systems["bag"].classes if score.support]
    assert len(f1) == 3
    assert evaluation.systems["bag"].macro_f1.value == pytest.approx(np.mean(f1))


def test_each_class_has_its_scores_and_its_support(evaluation, labels, predicted):
    scores = evaluation.systems["pool"].classes
    assert [score.code for score in scores] == CODES
    assert [score.support for score in scores] == np.bincount(labels, minlength=4).tolist()
    expected = precision_score(labels, predicted["pool"], average=None)
    assert [score.precision for score in scores] == pytest.approx(expected)
    assert (scores[3].f1, scores[3].recall) == (0, 0)


def test_the_confusion_matrix_is_of_the_pool(evaluation, labels, predicted):
    assert evaluation.confusion == confusion_matrix(labels, predicted["pool"], labels=range(4)).tolist()


def test_the_interval_is_the_one_of_resampling_rows(evaluation, labels, predicted):
    random = np.random.default_rng(5)
    rows = random.integers(0, len(labels), size=(1000, len(labels)))
    right = (labels == predicted["bag"])[rows].mean(1)
    accuracy = evaluation.systems["bag"].accuracy
    assert (accuracy.low, accuracy.high) == pytest.approx(np.quantile(right, (0.025, 0.975)), abs=0.008)
    f1 = [f1_score(labels[r], predicted["bag"][r], average="weighted") for r in rows[:300]]
    interval = hard_intervals(labels, predicted["bag"], 4, seed=0)["weighted_f1"]
    assert interval.high - interval.low == pytest.approx(4 * np.std(f1), rel=0.2)
    losses = log_losses(probabilities(predicted["bag"], 4), labels)[rows].mean(1)
    found = evaluation.systems["bag"].log_loss
    assert (found.low, found.high) == pytest.approx(np.quantile(losses, (0.025, 0.975)), abs=0.02)


def test_an_interval_holds_its_value_and_more_rows_make_it_narrower(evaluation, labels, predicted):
    for metric in evaluation.systems["photo"].metrics:
        assert metric.low < metric.value < metric.high
    more = evaluate({"pool": probabilities(np.tile(predicted["photo"], 9), 4)}, np.tile(labels, 9), CODES, seed=0)
    wide, narrow = evaluation.systems["photo"].accuracy, more.systems["pool"].accuracy
    assert (narrow.high - narrow.low) == pytest.approx((wide.high - wide.low) / 3, rel=0.15)


def test_a_perfect_system_scores_one_without_doubt(labels):
    perfect = evaluate({"pool": probabilities(labels, 4, confidence=1.0)}, labels, CODES, seed=0)
    assert [str(metric) for metric in perfect.systems["pool"].metrics] == ["1.000 [1.000, 1.000]"] * 3 + [
        "0.000 [0.000, 0.000]"
    ]
    assert perfect.ece == 0


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    labels = np.array([0] * 6 + [1] * 4)
    always_first = probabilities(np.zeros(10, int), 2, confidence=0.9)
    curve = reliability(always_first, labels)
    assert curve.ece == pytest.approx(0.3)
    assert [(part.count, part.accuracy) for part in curve.bins] == [(10, pytest.approx(0.6))]
    assert curve.bins[0].confidence == pytest.approx(0.9)


def test_rows_fall_into_fifteen_bins_of_equal_width():
    confidence = np.array([0.51, 0.53, 0.54, 0.99, 1.0])
    curve = reliability(np.stack([confidence, 1 - confidence], 1), np.zeros(5, int))
    assert [part.count for part in curve.bins] == [2, 1, 2]


def test_an_evaluation_survives_json(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(evaluation.to_dict()))
    assert Evaluation.load(path) == evaluation


def test_the_same_seed_gives_the_same_intervals(evaluation, labels, predicted):
    again = evaluate({name: probabilities(p, 4) for name, p in predicted.items()}, labels, CODES, seed=0)
    assert again == evaluation


def test_the_summary_is_flat_numbers(evaluation):
    summary = evaluation.summary()
    assert summary["bag_weighted_f1"] == evaluation.systems["bag"].weighted_f1.value
    assert summary["pool_log_loss"] == evaluation.systems["pool"].log_loss.value
    assert summary["pool_ece"] == evaluation.ece
    assert (summary["test_rows"], summary["photos_skipped"]) == (300, 0)
    assert len(summary) == 4 * 4 + 3


def test_no_test_rows_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="give the catalogue more titles, or the test split a larger share"):
        evaluate({"pool": np.zeros((0, 4))}, np.zeros(0, int), CODES, seed=0)


def test_the_table_shows_every_system_on_one_line_of_110_columns(labels, predicted):
    systems = {name: probabilities(p, 4) for name, p in predicted.items()}
    systems["most_frequent"] = np.tile([0.5, 0.3, 0.2, 0.0], (300, 1))
    evaluation = evaluate(systems, labels, CODES, seed=0)
    console = Console(width=110)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation, title="stamps"))
    lines = capture.get().splitlines()
    assert "stamps" in lines[0]
    for name, system in evaluation.systems.items():
        (line,) = [line for line in lines if line.startswith(name)]
        bare = [f"{metric.value:.3f}" for metric in system.metrics[1:]]
        told = [str(system.weighted_f1), *bare, f"{system.reliability.ece:.3f}"]
        assert " ".join([name, *told, system.lead.signed() if system.lead else ""]).split() == line.split()


def test_the_table_explains_the_pool_without_the_cascade_where_it_has_it(evaluation):
    assert "cascade" not in str(evaluation_table(evaluation, title="").caption)
    both = replace(evaluation, systems={**evaluation.systems, FULL_POOL: evaluation.systems["pool"]})
    assert str(evaluation_table(both, title="").caption).endswith("; full_pool: without the cascade")


def test_the_lead_is_over_the_baseline_on_the_same_rows(evaluation, labels, predicted):
    lead = evaluation.systems["pool"].lead
    expected = weighted_f1(labels, predicted["pool"]) - weighted_f1(labels, predicted["tfidf_svm"])
    assert lead.value == pytest.approx(expected)
    differences = paired_differences(labels, predicted["pool"], predicted["tfidf_svm"], seed=1)
    assert (lead.low, lead.high) == pytest.approx(np.quantile(differences, (0.025, 0.975)), abs=0.01)
    assert evaluation.systems["tfidf_svm"].lead is None


def test_without_the_baseline_there_is_no_lead(labels, predicted):
    assert evaluate({"pool": probabilities(predicted["pool"], 4)}, labels, CODES, seed=0).systems["pool"].lead is None


def test_an_interval_of_a_difference_has_signs_and_never_a_negative_zero(evaluation):
    lead = evaluation.systems["pool"].lead
    assert lead.signed() == f"{lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
    assert type(lead)(-0.0001, -0.0002, 0.0).signed() == "+0.000 [+0.000, +0.000]"


def test_systems_without_a_pool_are_refused(labels, predicted):
    with pytest.raises(KeyError, match="pool"):
        evaluate({"bag": probabilities(predicted["bag"], 4)}, labels, CODES, seed=0)


def test_a_label_of_probability_zero_costs_as_much_as_in_sklearn():
    scores, labels = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])
    assert log_losses(scores, labels).mean() == pytest.approx(log_loss(labels, scores))


def test_the_photos_gain_is_by_quarters_of_the_texts_confidence():
    confidence = np.array([0.9, 0.5, 0.8, 0.6, 0.7, 1.0, 0.55, 0.65])
    text = np.stack([confidence, 1 - confidence], 1)  # always says 0
    labels = np.array([0, 1, 0, 1, 0, 0, 0, 1])
    both = np.eye(2)[np.where(confidence < 0.6, labels, 0)]  # the photo helps the two least sure
    parts = photo_gain(text, both, labels)
    assert [(part.rows, part.low, part.high) for part in parts] == [
        (2, 0.5, 0.55),
        (2, 0.6, 0.65),
        (2, 0.7, 0.8),
        (2, 0.9, 1.0),
    ]
    assert [part.text_accuracy for part in parts] == [0.5, 0, 1, 1]
    assert [part.accuracy for part in parts] == [1, 0, 1, 1]
    assert (parts[0].text_weighted_f1, parts[0].weighted_f1) == (pytest.approx(1 / 3), 1)
    assert len(photo_gain(text[:3], both[:3], labels[:3])) == 3


def test_an_evaluation_with_photos_has_their_gain(labels, predicted):
    scores = {name: probabilities(p, 4) for name, p in predicted.items()}
    with_photos = evaluate(scores, labels, CODES, seed=0, text_pool=scores["bag"])
    assert [part.rows for part in with_photos.photo_gain] == [75] * 4
    assert Evaluation.from_dict(json.loads(json.dumps(with_photos.to_dict()))) == with_photos


def test_the_same_predictions_are_surely_no_worse(labels, predicted):
    assert paired_bootstrap(labels, predicted["bag"], predicted["bag"], margin=0.0, seed=0) == 1.0


def test_a_far_better_model_passes_and_a_far_worse_one_does_not(labels, predicted):
    assert paired_bootstrap(labels, predicted["pool"], predicted["photo"], margin=0.005, seed=0) == 1.0
    assert paired_bootstrap(labels, predicted["photo"], predicted["pool"], margin=0.005, seed=0) == 0.0


def test_the_paired_probability_is_that_of_resampling_rows_jointly(labels, predicted):
    new, old = predicted["bag"], predicted["tfidf_svm"]
    rows = np.random.default_rng(7).integers(0, len(labels), size=(100, len(labels)))
    f1 = [[f1_score(labels[r], p[r], average="weighted", zero_division=0) for p in (new, old)] for r in rows]
    expected = np.mean([a >= b - 0.01 for a, b in f1])
    assert paired_bootstrap(labels, new, old, margin=0.01, seed=0) == pytest.approx(expected, abs=0.12)


def test_the_paired_bootstrap_takes_codes_as_well_as_class_indices(labels, predicted):
    codes = np.array(CODES)
    indices = labels, predicted["bag"], predicted["tfidf_svm"]
    by_index, by_code = (paired_bootstrap(*rows, margin=0.0, seed=3) for rows in (indices, [codes[i] for i in indices]))
    assert by_code == by_index


def test_a_wider_margin_never_lowers_the_probability(labels, predicted):
    chances = [paired_bootstrap(labels, predicted["bag"], predicted["tfidf_svm"], m, seed=0) for m in (0, 0.02, 0.1)]
    assert chances == sorted(chances)


def test_answers_are_scored_where_there_are_both_and_a_member_where_it_had_something_to_look_at():
    answered = {"pool": pd.Series([10, 40, 40], index=[7, 8, 9]), "photo": pd.Series([40, None], index=[7, 9])}
    scores = score_against_labels(answered, pd.Series([40, 10, 10], index=[9, 7, 99]))
    names, weighted_f1, *_ = (list(column.cells) for column in scores.columns)
    assert names == ["pool (2)", "photo (1)"]
    assert scores.caption == "3 labels; (n): a member that scored n of them"
    assert weighted_f1 == ["1.000 [1.000, 1.000]", "0.000 [0.000, 0.000]"]
