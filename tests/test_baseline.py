import warnings

import numpy as np
import pytest

from rakuten_tasks.classifier.baseline import fit_baseline

WORDS = {0: "piscine spa filtre", 2: "roman poche auteur", 3: "manette console jeu"}


def catalogue(rows, seed):
    """Titles and descriptions of three of five classes; class words are mixed with words that say nothing."""
    random = np.random.default_rng(seed)
    labels = random.choice(list(WORDS), size=rows)
    titles = [" ".join(random.choice([*WORDS[k].split(), "neuf", "lot", "rouge"], size=3)) for k in labels]
    descriptions = ["" if random.random() < 0.35 else f"<b>{random.choice(WORDS[k].split())}</b>" for k in labels]
    return titles, descriptions, labels


@pytest.fixture(scope="module")
def baseline():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit_baseline(*catalogue(200, seed=0), n_classes=5, seed=0)


def test_the_baseline_learns_what_the_words_say(baseline):
    titles, descriptions, labels = catalogue(200, seed=1)
    assert np.mean(baseline.probabilities(titles, descriptions).argmax(1) == labels) > 0.9


def test_a_class_without_training_rows_keeps_its_column_at_zero(baseline):
    answers = baseline.probabilities(["piscine", "inconnu", ""], ["", "", ""])
    assert answers.shape == (3, 5)
    assert (answers[:, [1, 4]] == 0).all()
    np.testing.assert_allclose(answers.sum(1), 1)


def test_the_description_counts_too_and_is_cleaned(baseline):
    answers = baseline.probabilities(["neuf", "neuf"], ["<p>CONSOLE&amp;nbsp;manette</p>", "console manette"])
    np.testing.assert_allclose(answers[0], answers[1])
    assert answers[0].argmax() == 3


def test_two_fits_with_one_seed_are_the_same(baseline):
    again = fit_baseline(*catalogue(200, seed=0), n_classes=5, seed=0)
    titles, descriptions, _ = catalogue(50, seed=2)
    np.testing.assert_array_equal(
        again.probabilities(titles, descriptions), baseline.probabilities(titles, descriptions)
    )


def test_two_classes_are_enough():
    baseline = fit_baseline(["piscine", "roman"], ["", ""], np.array([0, 1]), n_classes=2, seed=0)
    assert baseline.probabilities(["roman", "piscine"], ["", ""]).argmax(1).tolist() == [1, 0]
