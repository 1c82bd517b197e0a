import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from rakuten_tasks.evaluation.metrics import evaluate
from rakuten_tasks.models.pool import fit_pool
from rakuten_tasks.models.pool_report import report_pool
from rakuten_tasks.reports.result_plots import evaluation_figures, intervals, pool_figures
from rakuten_tasks.reports.training_plots import MAX_EPOCHS, phase_starts, training_curves, training_pace
from tests.support.deck_cases import cascade_report, epochs_of, refitted
from tests.support.pool_cases import MODALITY, PRIOR, case, only


def scores(labels, classes, signal, seed):
    evidence = np.random.default_rng(seed).normal(size=(len(labels), classes))
    evidence[np.arange(len(labels)), labels] += signal
    return softmax(evidence * signal, axis=1)


def evaluation_of(classes):
    labels = np.arange(6 * classes) % classes
    systems = {"bag": scores(labels, classes, 2, 0), "photo": scores(labels, classes, 1, 1)}
    systems["pool"] = (systems["bag"] + systems["photo"]) / 2
    systems["most_frequent"] = np.full((len(labels), classes), 1 / classes)
    return evaluate(systems, labels, list(range(10, 10 + classes)), seed=0, text_pool=systems["bag"])


@pytest.fixture(scope="module")
def small():
    return evaluation_of(3)


@pytest.fixture(scope="module")
def figures(small):
    return evaluation_figures(small, {"10": "used books"})


def test_classes_are_named_where_names_are_known(figures):
    assert list(figures["confusion"].data[0].x) == ["10 used books", "11", "12"]


def test_the_bars_are_the_pools_f1_best_on_top(figures, small):
    bars = figures["class_f1"].data[0]
    assert list(bars.x) == sorted(score.f1 for score in small.systems["pool"].classes)
    assert sorted(bars.y) == ["10 used books (6)", "11 (6)", "12 (6)"]


def test_the_other_systems_are_marks_on_the_same_classes(figures, small):
    bars, *marks = figures["class_f1"].data
    assert [mark.name for mark in marks] == ["bag", "photo"]
    at = list(bars.y).index("11 (6)")
    assert marks[0].x[at] == small.systems["bag"].classes[1].f1


def test_the_heatmap_shows_counts_and_shares_of_the_true_class(figures, small):
    heatmap = figures["confusion"].data[0]
    counts = np.array(small.confusion)
    np.testing.assert_allclose(heatmap.z, counts / 6)
    assert heatmap.text[0][0] == str(counts[0, 0])
    assert heatmap.texttemplate == "%{text}"


def test_a_hundred_classes_get_a_larger_picture_without_counts(small, figures):
    many = evaluation_figures(evaluation_of(101), {})
    assert many["confusion"].data[0].texttemplate is None
    for name in ("confusion", "class_f1"):
        assert many[name].layout.height > 2 * figures[name].layout.height


def test_each_system_has_a_panel_with_its_reliability_and_error(figures, small):
    figure = figures["reliability"]
    assert [trace.name for trace in figure.data] == ["perfect", "pool", "perfect", "bag", "perfect", "photo"]
    assert figure.layout.annotations[0].text == f"pool: ECE {small.ece:.3f}"
    assert list(figure.data[1].y) == [part.accuracy for part in small.systems["pool"].reliability.bins]
    assert list(figure.data[0].x) == list(figure.data[0].y)


def test_more_systems_than_panels_in_a_line_go_on_in_the_next(small):
    systems = {**small.systems, **{f"member_{i}": small.systems["bag"] for i in range(6)}}
    figure = evaluation_figures(dataclasses.replace(small, systems=systems), {})["reliability"]
    assert {trace.yaxis for trace in figure.data} == {"y", *(f"y{i}" for i in range(2, 10))}


def test_intervals_show_each_metric_of_each_system_with_the_pool_on_top(small):
    figure = intervals(small)
    assert [trace.y[0] for trace in figure.data][-1] == "pool"
    assert len(figure.data) == 3 * 4
    loss = small.systems["pool"].log_loss
    assert figure.data[-1].x[0] == loss.value
    assert figure.data[-1].error_x.array[0] == loss.high - loss.value


def test_the_photos_gain_is_drawn_by_quarters(figures, small):
    text, both = figures["photo_gain"].data
    assert list(text.y) == [part.text_accuracy for part in small.photo_gain]
    assert list(both.y) == [part.accuracy for part in small.photo_gain]
    assert len(set(text.x)) == 4
    assert "photo_gain" not in evaluation_figures(dataclasses.replace(small, photo_gain=[]), {})


def test_the_pools_weights_are_bars_by_what_a_product_has_and_gains_bars_by_member():
    logits, labels = case(400)
    pool = fit_pool(logits, labels, MODALITY, PRIOR)
    report = report_pool(pool, logits, labels)
    drawn = pool_figures(report)
    assert list(drawn) == ["pool_weights", "pool_gains"]
    bars = {bar.name: (list(bar.x), list(bar.y)) for bar in drawn["pool_weights"].data}
    weights = report.weights
    assert bars["photo"] == (["text", "photo", "text+photo"], [None, *(weights[k]["photo"] for k in list(weights)[1:])])
    losses, f1 = drawn["pool_gains"].data
    assert list(losses.y) == ["photo", "lstm", "bag"]
    assert [losses.x[2], f1.x[2]] == list(report.adds("bag"))


def test_the_cascade_is_drawn_over_the_threshold_with_the_chosen_one_marked():
    report = cascade_report()
    traces = pool_figures(report)["pool_cascade"].data
    chosen = {
        trace.yaxis: (list(trace.x), list(trace.y)) for trace in traces if "chosen" in trace.name and len(trace.x)
    }
    assert chosen == {"y": ([0.7], [0.5]), "y2": ([0.7], [0.8])}
    assert list(traces[0].x) == [0.9, 0.7, 0.5]


def test_a_pool_of_which_nothing_was_compared_has_weights_alone():
    logits, labels = case(100)
    logits = only(logits, **{**logits.available, "lstm": np.arange(100) < 9, "photo": np.arange(100) > 20})
    report = report_pool(fit_pool(logits, labels, MODALITY, PRIOR), logits, labels)
    assert list(pool_figures(report)) == ["pool_weights"]


def test_the_training_curves_show_both_losses_and_the_f1():
    epochs = [dataclasses.replace(epoch, valid_f1=epoch.number / 10) for epoch in epochs_of(3)]
    curves = {curve.name: (list(curve.x), list(curve.y)) for curve in training_curves(epochs).data}
    assert curves == {
        "training loss": ([1, 2, 3], [epoch.train_loss for epoch in epochs]),
        "validation loss": ([1, 2, 3], [epoch.valid_loss for epoch in epochs]),
        "validation F1": ([1, 2, 3], [0.1, 0.2, 0.3]),
    }


def test_trainings_in_a_row_are_drawn_one_after_the_other():
    epochs = [*epochs_of(3), *epochs_of(2), *refitted(4)]
    assert phase_starts(epochs) == [0, 3, 5]
    figure = training_curves(epochs)
    assert list(figure.data[0].x) == [1, 2, 3, None, 4, 5, None, 6, 7, 8, 9]
    assert [shape.x0 for shape in figure.layout.shapes] == [3.5, 3.5, 5.5, 5.5]
    assert figure.layout.xaxis.title.text == "epoch of 3 trainings in a row"
    assert list(training_pace(epochs).data[1].x) == list(range(1, 10))


def test_very_many_epochs_are_thinned_out_and_their_trainings_stay_apart():
    epochs = [*epochs_of(1200), *refitted(900)]
    x = list(training_curves(epochs).data[0].x)
    assert len(x) <= MAX_EPOCHS + 1
    assert x.count(None) == 1
    assert x[x.index(None) + 1] == 1201
