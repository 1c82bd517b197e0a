"""Linear classifiers and the members made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from rakuten_tasks.config import BagConfig, Refit, TrainingConfig
from rakuten_tasks.data.splits import TEST, TRAIN
from rakuten_tasks.models import linear_model
from rakuten_tasks.models.extractors import NgramExtractor
from rakuten_tasks.models.linear_model import Features, Loss, fit_linear
from rakuten_tasks.models.members.linear import Bag, BagEncoder, Encoder, LinearMember, Photo, Standardizer
from rakuten_tasks.models.members.member import FitContext, TrainingData
from rakuten_tasks.models.members.platt_scaling import FEWEST_ROWS, PlattScaling
from rakuten_tasks.preprocessing.product import Product
from tests.support.training_data import CPU, THINGS, labelled_products, training_data

CONFIG = BagConfig(ngram_bits=12)


def noisy_rows(count: int = 240, width: int = 30) -> tuple[NDArray, NDArray]:
    """Rows of four classes that lie apart but for noise. (N, width) fp32, (N,)"""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 4
    return (random.normal(size=(4, width))[labels] + 2 * random.normal(size=(count, width))).astype(np.float32), labels


def objective(rows: NDArray, labels: NDArray, weight: NDArray, bias: NDArray, cost: float) -> NDArray:
    """What LinearSVC minimises, of each class against the rest, but for the penalty of the bias. (K,)"""
    gaps = np.maximum(0, 1 - (2 * np.eye(4)[labels] - 1) * (rows @ weight + bias))
    return cost * np.square(gaps).sum(0) + np.square(weight).sum(0) / 2


@pytest.mark.parametrize("cost", [0.1, 1.0])
def test_the_hinge_ends_where_scikit_learn_does(monkeypatch, cost):
    monkeypatch.setattr(linear_model, "ITERATIONS", 500)
    rows, labels = noisy_rows()
    ours = fit_linear(Features(dense=rows), labels, 4, cost, Loss.HINGE, CPU)
    # scikit-learn penalises the bias too, but hardly a scaled one
    theirs = LinearSVC(C=cost, dual=False, tol=1e-8, intercept_scaling=100).fit(rows, labels)
    reached = objective(rows, labels, ours.weight.numpy(), ours.bias.numpy(), cost)
    np.testing.assert_allclose(reached, objective(rows, labels, theirs.coef_.T, theirs.intercept_, cost), rtol=1e-3)


def test_the_softmax_ends_where_scikit_learn_does(monkeypatch):
    monkeypatch.setattr(linear_model, "ITERATIONS", 500)
    rows, labels = noisy_rows()
    ours = fit_linear(Features(dense=rows), labels, 4, 0.1, Loss.SOFTMAX, CPU)
    theirs = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(rows, labels)
    chances = torch.softmax(torch.from_numpy(ours.scores(Features(dense=rows))), 1)
    np.testing.assert_allclose(chances, theirs.predict_proba(rows), atol=2e-3)


def test_sparse_and_dense_features_side_by_side_are_one_matrix(monkeypatch):
    monkeypatch.setattr(linear_model, "ITERATIONS", 500)
    rows, labels = noisy_rows()
    half = Features(sparse.csr_array(rows[:, :10]), rows[:, 10:])
    ours = fit_linear(half, labels, 4, 0.1, Loss.HINGE, CPU).scores(half)
    whole = Features(dense=rows)
    np.testing.assert_allclose(ours, fit_linear(whole, labels, 4, 0.1, Loss.HINGE, CPU).scores(whole), atol=2e-2)


def test_classes_that_are_fitted_some_at_a_time_come_to_the_same(monkeypatch):
    monkeypatch.setattr(linear_model, "ITERATIONS", 500)
    rows, labels = noisy_rows()
    features = Features(sparse.csr_array(rows))
    together = fit_linear(features, labels, 4, 0.1, Loss.HINGE, CPU).scores(features)
    monkeypatch.setattr(linear_model, "MAX_WEIGHTS_PER_FIT", 30)
    apart = fit_linear(features, labels, 4, 0.1, Loss.HINGE, CPU).scores(features)
    np.testing.assert_allclose(apart, together, atol=2e-2)
    assert (apart.argmax(1) == together.argmax(1)).all()


def test_a_row_gets_the_same_bits_alone_and_among_others():
    rows, labels = noisy_rows()
    features = Features(sparse.csr_array(np.maximum(rows, 0)), rows)
    classifier = fit_linear(features, labels, 4, 1.0, Loss.HINGE, CPU)
    together = classifier.scores(features)
    for place in (0, 7, 239):
        alone = classifier.scores(features.take(np.array([place])))
        assert alone[0].tobytes() == together[place].tobytes()


def test_a_feature_that_never_changes_is_left_as_it_is():
    rows, _ = noisy_rows()
    rows[:, 3] = 5.0
    scaler = Standardizer.fit(rows, unit=True)
    scaled = scaler.transform(rows)
    assert np.isfinite(scaled).all()
    assert np.allclose(scaled[:, 3], 0)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TrainingData:
    products, labels, splits = labelled_products(90)
    return training_data(tmp_path_factory.mktemp("bag"), [NgramExtractor(12)], products, labels, splits)


def fit(data: TrainingData, labels: NDArray | None = None, refit: Refit = Refit.EXCEPT_TEST) -> Any:
    if labels is not None:
        data = TrainingData(data.arrays, data.rows, labels, data.splits, data.folds, data.classes, data.folders)
    return Bag.fit(CONFIG, data, FitContext(0, CPU, refit))


@pytest.fixture(scope="module")
def fitted(data) -> Any:
    return fit(data)


def test_all_rows_but_test_are_scored_out_of_fold_and_mostly_right(data, fitted):
    assert fitted.rows.tolist() == data.not_test.tolist()
    assert not fitted.stopping.any()
    assert (fitted.logits.argmax(1) == data.labels[fitted.rows]).mean() > 0.9


def test_the_score_of_a_row_does_not_depend_on_its_own_label(data, monkeypatch):
    # the link's two numbers are fitted on all rows, as the pool's weights are
    monkeypatch.setattr(PlattScaling, "fit", lambda scores, labels: None)
    fitted = fit(data)
    row = int(data.on(TRAIN)[4])
    labels = data.labels.copy()
    labels[row] = (labels[row] + 1) % 3
    changed = fit(data, labels)
    place = fitted.rows.tolist().index(row)
    assert changed.logits[place].tobytes() == fitted.logits[place].tobytes()
    other_folds = data.folds[fitted.rows] != data.folds[row]
    assert (changed.logits != fitted.logits)[other_folds].any()


def test_a_link_makes_of_scores_the_chances_that_they_stand_for():
    random = np.random.default_rng(0)
    scores = random.normal(-0.8, 0.5, (4000, 5))
    chances = 1 / (1 + np.exp(-(3.0 * scores - 1.0)))
    labels = np.array([random.choice(5, p=row / row.sum()) for row in chances])
    link = PlattScaling.fit(scores, labels)
    assert (link.slope, link.offset) == (pytest.approx(3.0, abs=0.4), pytest.approx(-1.0, abs=0.5))
    linked = link.transform(scores)
    assert (linked.argmax(1) == scores.argmax(1)).all()
    assert linked[7:8].tobytes() == link.transform(scores[7:8]).tobytes()
    assert PlattScaling.fit(scores[: FEWEST_ROWS - 1], labels[: FEWEST_ROWS - 1]) is None


def test_test_rows_change_nothing_unless_everything_is_fitted(data, fitted):
    labels = np.where(data.splits == TEST, (data.labels + 1) % 3, data.labels)
    changed = fit(data, labels)
    assert torch.equal(changed.member.classifier.table, fitted.member.classifier.table)
    assert changed.logits.tobytes() == fitted.logits.tobytes()
    assert changed.final is None
    whole, other = (fit(data, known, Refit.EVERYTHING) for known in (data.labels, labels))
    assert torch.equal(whole.member.classifier.table, fitted.member.classifier.table)
    assert not torch.equal(whole.final.classifier.table, other.final.classifier.table)


def test_a_row_whose_class_no_other_fold_has_is_not_scored(data):
    labels = data.labels.copy()
    rare = data.not_test[data.labels[data.not_test] == 2]
    labels[rare[1:]] = 1
    found = fit(data, labels)
    assert rare[0] not in found.rows
    assert len(found.rows) == len(data.not_test) - 1


def test_a_saved_member_answers_the_same(data, fitted, tmp_path):
    fitted.member.save(tmp_path)
    again = Bag.load(tmp_path, CPU)
    arrays = NgramExtractor(12).extract(labelled_products(20, held_out=2, seed=5)[0])
    ours, embedding = fitted.member.logits_and_embedding(arrays)
    assert embedding is None
    assert again.logits_and_embedding(arrays)[0].tobytes() == ours.tobytes()


class Drawn:
    """Stands for an extractor that a network is behind: numbers that tell a title's class, but for noise."""

    modality = "text"

    def __init__(self, name: str, array: str) -> None:
        self.name, self.array = name, array

    def extract(self, products: Sequence[Product]) -> dict[str, NDArray]:
        rows = np.zeros((len(products), 8))
        for row, product in zip(rows, products, strict=True):
            row[:] = 0.5 * np.random.default_rng(list(product.designation.encode())).normal(size=8)
            row[[product.designation.startswith(thing) for thing in THINGS].index(True)] += 1
        return {self.array: (100 + 3 * rows).astype(np.float16)}

    def save(self, folder: Path) -> None:
        """It has nothing to keep."""


@pytest.mark.parametrize(
    ("member", "read"),
    [
        (Encoder, [Drawn("vectors", "vectors")]),
        (BagEncoder, [NgramExtractor(12), Drawn("vectors", "vectors")]),
        (Photo, [Drawn("photo_features", "photo")]),
        (Photo, [Drawn("maps", "photo")]),  # where VGG16's block 5 is trained beside it
    ],
    ids=["encoder", "bag_encoder", "photo", "photo beside maps"],
)
def test_a_member_on_dense_features_learns_and_gives_the_same_bits_alone_among_others_and_saved(member, read, tmp_path):
    products, labels, splits = labelled_products(90)
    data = training_data(tmp_path, read, products, labels, splits)
    fitted = member.fit(member.settings(TrainingConfig(bag=CONFIG)), data, FitContext(0, CPU))
    assert fitted.rows.tolist() == data.not_test.tolist()
    assert (fitted.logits.argmax(1) == labels[fitted.rows]).mean() > 0.6  # by chance a third; few rows, much penalty

    def logits_of(fitted_member: LinearMember, chosen: Sequence[Product]) -> NDArray:
        arrays = {key: values for extractor in read for key, values in extractor.extract(chosen).items()}
        return fitted_member.logits_and_embedding(arrays)[0]

    together = logits_of(fitted.member, products)
    assert (together.argmax(1) == labels)[splits == TEST].mean() > 0.6
    fitted.member.save(tmp_path / "saved")
    saved = member.load(tmp_path / "saved", CPU)
    alone = [logits_of(saved, [product])[0] for product in products]
    assert np.stack(alone).tobytes() == together.tobytes()


def test_a_members_settings_are_all_that_its_fit_depends_on():
    wider = TrainingConfig(bag=BagConfig(ngram_bits=13))
    assert [kind.settings(wider) != kind.settings(TrainingConfig()) for kind in (Bag, BagEncoder, Encoder, Photo)] == [
        True, True, False, False
    ]  # fmt: skip
