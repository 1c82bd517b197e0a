import numpy as np
import pytest

from rakuten_tasks.classifier.calibration import calibrate
from rakuten_tasks.classifier.evaluation import evaluate
from rakuten_tasks.classifier.fusion import best_weight
from rakuten_tasks.classifier.plots import evaluation_figures, fusion_curve, png, training_curves
from rakuten_tasks.classifier.training import Epoch


def scores(labels, classes, signal, seed):
    evidence = np.random.default_rng(seed).normal(size=(len(labels), classes))
    evidence[np.arange(len(labels)), labels] += signal
    return calibrate(evidence, 1 / signal)


def evaluation_of(classes):
    labels = np.arange(6 * classes) % classes
    systems = {"text": scores(labels, classes, 2, 0), "photo": scores(labels, classes, 1, 1)}
    systems["fused"] = (systems["text"] + systems["photo"]) / 2
    return evaluate(systems, labels, list(range(10, 10 + classes)), seed=0)


@pytest.fixture(scope="module")
def small():
    return evaluation_of(3)


@pytest.fixture(scope="module")
def figures(small):
    return evaluation_figures(small, {"10": "used books"})


def test_classes_are_named_where_names_are_known(figures):
    assert list(figures["confusion"].data[0].x) == ["10 used books", "11", "12"]


def test_the_bars_are_the_fused_f1_best_on_top(figures, small):
    bars = figures["class_f1"].data[0]
    assert list(bars.x) == sorted(score.f1 for score in small.systems["fused"].classes)
    assert sorted(bars.y) == ["10 used books (6)", "11 (6)", "12 (6)"]


def test_the_other_systems_are_marks_on_the_same_classes(figures, small):
    bars, *marks = figures["class_f1"].data
    assert [mark.name for mark in marks] == ["text", "photo"]
    at = list(bars.y).index("11 (6)")
    assert marks[0].x[at] == small.systems["text"].classes[1].f1


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


def test_the_reliability_of_each_system_carries_its_error(figures, small):
    perfect, *curves = figures["reliability"].data
    assert [curve.name.split(",")[0] for curve in curves] == ["text", "photo", "fused"]
    assert curves[2].name == f"fused, ECE {small.ece:.3f}"
    assert list(curves[2].y) == [part.accuracy for part in small.systems["fused"].reliability.bins]
    assert list(perfect.x) == list(perfect.y)


def test_the_fusion_curve_shows_every_step_the_plateau_and_the_choice():
    labels = np.arange(40) % 4
    search = best_weight(scores(labels, 4, 2, 0), scores(labels, 4, 1, 1), labels)
    figure = fusion_curve(search)
    assert list(figure.data[0].x) == list(search.edges)
    assert list(figure.data[0].y[:-1]) == list(search.scores)
    plateau, choice = figure.layout.shapes
    assert (plateau.x0, plateau.x1, choice.x0) == (search.low, search.high, search.weight)
    assert f"{search.weight:.3f}" in figure.layout.title.text


def test_the_training_curves_show_both_losses_and_the_f1():
    epochs = [Epoch(n, 2 / n, 3 / n, n / 10, 1e-3, 1.0) for n in (1, 2, 3)]
    curves = {curve.name: (list(curve.x), list(curve.y)) for curve in training_curves(epochs).data}
    assert curves == {
        "training loss": ([1, 2, 3], [2, 1, 2 / 3]),
        "validation loss": ([1, 2, 3], [3, 1.5, 1]),
        "validation F1": ([1, 2, 3], [0.1, 0.2, 0.3]),
    }


def test_a_figure_becomes_a_png_without_a_network(figures):
    assert png(figures["reliability"]).startswith(b"\x89PNG")
