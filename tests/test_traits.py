from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rakuten_tasks.classifier.branches import Product
from rakuten_tasks.classifier.explanation import branch_shares, heat_map, word_weights
from rakuten_tasks.classifier.photos import square_on_photo
from rakuten_tasks.classifier.predictor import Predictor, Scores
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, SCHEMA
from rakuten_tasks.monitoring.traits import answer_traits, photo_traits, project, text_traits, traits
from tests.bundles import write_bundle
from tests.catalogues import photo_bytes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle")))


PRODUCTS = [
    Product("Roman 2 EN 1", "Un livre de poche", photo_bytes(1)),
    Product("Drone avec caméra"),
    Product(photo=photo_bytes(2)),
    Product(),
]


def test_observing_gives_the_scores_and_what_the_heads_read(predictor):
    scores, embeddings = predictor.observe(PRODUCTS)
    np.testing.assert_array_equal(scores.probabilities, predictor.score(PRODUCTS).probabilities)
    for name, embedding in embeddings.items():
        assert np.isfinite(embedding).all(1).tolist() == scores.seen[name].tolist()
    projected = project(embeddings)
    assert projected.shape == (4, 16)
    assert np.isnan(projected).sum(1).tolist() == [0, 8, 8, 16]
    alone = project(predictor.observe(PRODUCTS[:1])[1])
    np.testing.assert_allclose(projected[0], alone[0], atol=1e-2)


def test_every_drift_column_is_filled(predictor):
    scores, embeddings = predictor.observe(PRODUCTS)
    found = traits(predictor, PRODUCTS[0], scores, 0, project(embeddings)[0])
    assert set(DRIFT_COLUMNS) <= set(found)
    assert set(found) <= set(SCHEMA.names)
    assert not [name for name in DRIFT_COLUMNS if found[name] is None]
    assert found["confidence"] == scores.confidence[0]
    assert 0 <= found["disagreement"] <= 1


def test_of_three_branches_each_pair_disagrees_and_all_are_projected():
    said = {name: np.array([[1 - p, p]]) for name, p in (("text", 0.1), ("photo", 0.4), ("title", 0.5))}
    fused = np.array([[0.7, 0.3]])
    scores = Scores(np.array([10, 20]), fused, said, dict.fromkeys(said, np.array([True])))
    assert answer_traits(scores, 0)["disagreement"] == pytest.approx((0.3 + 0.4 + 0.1) / 3)
    projected = project({name: np.ones((1, 3)) for name in said})
    assert projected.shape == (1, 16)
    assert np.isfinite(projected).all()


def test_text_traits_are_of_the_cleaned_text(predictor):
    found = text_traits(predictor.branches, Product("<b>AB</b> 12", "&amp;nbsp;"))
    assert (found["designation_length"], found["designation_words"]) == (5, 2)
    assert (found["digit_share"], found["capital_share"], found["description_empty"]) == (0.4, 0.4, True)
    assert text_traits(predictor.branches, Product("piscine zzyzx"))["unknown_word_share"] == 0.5
    assert text_traits(predictor.branches, Product())["unknown_word_share"] is None


def test_photo_traits():
    half = Image.new("RGB", (100, 100), "white")
    half.paste((0, 0, 0), (0, 0, 50, 100))
    buffer = BytesIO()
    half.save(buffer, "PNG")
    found = photo_traits(buffer.getvalue())
    assert found["brightness"] == pytest.approx(0.5, abs=0.01)
    assert found["contrast"] == pytest.approx(0.5, abs=0.01)
    assert found["border_share"] == pytest.approx(0.48, abs=0.01)  # a margin of 2 % stays
    assert found["photo_bytes"] == len(buffer.getvalue())
    assert photo_traits(None)["photo_missing"] is True
    assert photo_traits(b"no photo")["photo_unreadable"] is True


def test_the_shares_of_the_branches_sum_to_one(predictor):
    scores = predictor.score(PRODUCTS)
    shares = branch_shares(scores, predictor.manifest.fusion)
    np.testing.assert_allclose(shares["text"] + shares["photo"], [1, 1, 1, 0])
    assert (shares["text"][1], shares["photo"][2]) == (1, 1)


def test_the_words_that_speak_for_an_answer_are_found(predictor):
    product = Product("Drone", "avec caméra avec batterie")
    code = int(predictor.score([product]).predicted[0])
    found = word_weights(predictor, product, code)
    assert found
    assert [weight for _, weight in found] == sorted((weight for _, weight in found), reverse=True)
    left = Product(*(text.replace(found[0][0], "") for text in (product.designation, product.description)))
    full, without = predictor.score([product, left]).by_branch["text"]
    column = predictor.manifest.codes.index(code)
    assert found[0][1] == pytest.approx(np.log(full[column] / without[column]), abs=1e-4)
    assert [word for word, _ in word_weights(predictor, Product("drone"), code)] in ([], ["drone"])
    assert word_weights(predictor, Product(), code) == []


def test_the_heat_lies_where_the_object_is(predictor):
    branch = predictor.branches[1]
    photo = photo_bytes(1, 200)
    code = int(predictor.score([Product(photo=photo)]).predicted[0])
    found = heat_map(predictor, photo, code)
    assert found.heat.shape == (8, 8)
    assert (found.heat.min() >= 0, found.heat.max()) == (True, 1)
    left, upper, right, lower = found.square
    assert (left, upper) == (pytest.approx(0.24, abs=0.01), pytest.approx(0.24, abs=0.01))
    assert (right, lower) == (pytest.approx(0.52, abs=0.02), pytest.approx(0.52, abs=0.02))
    assert branch.network.training is False


def test_the_square_of_a_wide_photo_reaches_beyond_it():
    buffer = BytesIO()
    Image.new("RGB", (200, 100), "red").save(buffer, "PNG")
    assert square_on_photo(buffer.getvalue(), 32) == (0, -0.5, 1, 1.5)


def test_a_gradient_is_left_nowhere(predictor):
    heat_map(predictor, photo_bytes(1), 10)
    assert all(parameter.grad is None for parameter in predictor.branches[1].network.parameters())


def test_a_long_text_is_explained_by_its_beginning_a_few_readings_at_a_time(predictor, monkeypatch):
    read: list[list[int]] = []
    whole = Predictor.score

    def counted(self, products):
        read.append([len(product.designation) + len(product.description) for product in products])
        return whole(self, products)

    monkeypatch.setattr(Predictor, "score", counted)
    words = " ".join(f"mot{number}" for number in range(4000))
    word_weights(predictor, Product(words, words), predictor.manifest.codes[0])
    assert sum(map(len, read)) == 61
    assert max(map(len, read)) <= 16
    assert max(max(lengths) for lengths in read) <= 2000
