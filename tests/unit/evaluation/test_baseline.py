import warnings
from dataclasses import replace

import numpy as np
import pytest

from rakuten_tasks.evaluation.baseline import BASELINES, fit_most_frequent, fit_tfidf_svm
from rakuten_tasks.evaluation.bootstrap import log_losses

WORDS = {0: "piscine spa filtre", 2: "roman poche auteur", 3: "manette console jeu"}


def catalogue(rows, seed):
    """Titles and descriptions of three of five classes; class words are mixed with words that say nothing."""
    random = np.random.default_rng(seed)
    labels = random.choice(list(WORDS), size=rows)
    titles = [" ".join(random.choice([*WORDS[k].split(), "neuf", "lot", "rouge"], size=3)) for k in labels]
    descriptions = ["" if random.random() < 0.35 else f"<b>{random.choice(WORDS[k].split())}</b>" for k in labels]
    return titles, descriptions, labels


@pytest.fixture(scope="module")
def svm():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit_tfidf_svm(*catalogue(200, seed=0), n_classes=5, seed=0)


def test_the_baseline_learns_what_the_words_say(svm):
    titles, descriptions, labels = catalogue(200, seed=1)
    assert np.mean(svm.probabilities(titles, descriptions).argmax(1) == labels) > 0.9


def test_the_scale_is_nearly_the_one_that_suits_new_rows():
    titles, descriptions, labels = catalogue(2000, seed=1)
    random = np.random.default_rng(2)
    labels = np.where(random.random(2000) < 0.2, random.choice(list(WORDS), size=2000), labels)
    fitted = fit_tfidf_svm(titles[:1000], descriptions[:1000], labels[:1000], n_classes=5, seed=0)
    others = [replace(fitted, scale=scale) for scale in np.geomspace(0.5, 8, 30)]
    losses = [
        log_losses(one.probabilities(titles[1000:], descriptions[1000:]), labels[1000:]).mean()
        for one in (fitted, *others)
    ]
    assert losses[0] < min(losses[1:]) + 0.003
    assert losses[0] < max(losses[1:]) - 0.3


def test_a_class_without_rows_is_never_the_answer(svm):
    answers = svm.probabilities(["piscine", "inconnu", ""], ["", "", ""])
    assert answers.shape == (3, 5)
    assert answers[:, [1, 4]].max() < answers[:, [0, 2, 3]].max(1).min()
    np.testing.assert_allclose(answers.sum(1), 1)


def test_the_description_counts_too_and_is_cleaned(svm):
    answers = svm.probabilities(["neuf", "neuf"], ["<p>CONSOLE&amp;nbsp;manette</p>", "console manette"])
    np.testing.assert_allclose(answers[0], answers[1])
    assert answers[0].argmax() == 3


def test_two_fits_with_one_seed_are_the_same(svm):
    again = fit_tfidf_svm(*catalogue(200, seed=0), n_classes=5, seed=0)
    titles, descriptions, _ = catalogue(50, seed=2)
    np.testing.assert_array_equal(again.probabilities(titles, descriptions), svm.probabilities(titles, descriptions))


@pytest.mark.parametrize("copies", [1, 4])
def test_two_titles_are_enough(copies):
    titles = ["piscine", "roman"] * copies
    svm = fit_tfidf_svm(titles, [""] * len(titles), np.array([0, 1] * copies), n_classes=2, seed=0)
    answers = svm.probabilities(["roman", "piscine"], ["", ""])
    assert answers.argmax(1).tolist() == [1, 0]


def test_classes_of_one_row_are_no_obstacle():
    titles, descriptions, labels = catalogue(60, seed=3)
    titles, descriptions = [*titles, "drone helice", "drap coton"], [*descriptions, "", ""]
    labels = np.append(labels, [1, 4])
    svm = fit_tfidf_svm(titles, descriptions, labels, n_classes=5, seed=0)
    assert svm.probabilities(["drone helice", "drap coton"], ["", ""]).argmax(1).tolist() == [1, 4]


def test_where_every_class_has_one_row_nothing_is_known_of_the_scale():
    svm = fit_tfidf_svm(["un", "deux", "trois", "quatre"], [""] * 4, np.arange(4), n_classes=4, seed=0)
    assert svm.scale == 1.0


def test_the_most_frequent_class_is_told_to_every_product_with_its_share():
    baseline = fit_most_frequent([], [], np.array([2, 2, 0, 2]), n_classes=4, seed=0)
    assert baseline.probabilities(["x", "y"], ["", ""]).tolist() == [[0.25, 0, 0.75, 0]] * 2


def test_every_baseline_is_fitted_alike():
    titles, descriptions, labels = catalogue(30, seed=4)
    for fit in BASELINES.values():
        answers = fit(titles, descriptions, labels, 5, 0).probabilities(titles[:3], descriptions[:3])
        np.testing.assert_allclose(answers.sum(1), [1, 1, 1])


def test_very_many_classes_are_no_regression():
    """scikit-learn warns of more than 20 classes that are more than half of the rows; warnings are errors here."""
    titles = [f"titre{row}" for row in range(60)]
    svm = fit_tfidf_svm(titles, [""] * 60, np.arange(60) % 40, n_classes=40, seed=0)
    assert svm.probabilities(titles, [""] * 60).argmax(1).tolist() == (np.arange(60) % 40).tolist()
