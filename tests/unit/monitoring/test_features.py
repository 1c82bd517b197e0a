from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, SCHEMA
from rakuten_tasks.monitoring.features import (
    drift_features,
    photo_features,
    prediction_features,
    project,
    text_features,
)
from rakuten_tasks.preprocessing.photos import square_on_photo
from rakuten_tasks.preprocessing.product import Product
from tests.support.bundles import write_bundle
from tests.support.catalogues import photo_bytes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle")))


PRODUCTS = [
    Product("Roman 2 EN 1", "Un livre de poche", photo_bytes(1)),
    Product("Drone avec caméra"),
    Product(photo=photo_bytes(2)),
    Product(),
]


def test_embeddings_come_with_the_scores_and_are_missing_where_the_modality_is(predictor):
    scores, embeddings = predictor.score_with_embeddings(PRODUCTS)
    np.testing.assert_array_equal(scores.probabilities, predictor.score(PRODUCTS).probabilities)
    for modality, embedding in embeddings.items():
        result = [modality in scores.modalities(row) for row in range(len(PRODUCTS))]
        assert np.isfinite(embedding).all(1).tolist() == result
    projected = project(embeddings, len(PRODUCTS))
    assert projected.shape == (4, 16)
    assert np.isnan(projected).sum(1).tolist() == [0, 8, 8, 16]
    alone = project(predictor.score_with_embeddings(PRODUCTS[:1])[1], 1)
    np.testing.assert_allclose(projected[0], alone[0], atol=1e-2)


def test_every_drift_column_is_filled(predictor):
    scores, embeddings = predictor.score_with_embeddings(PRODUCTS)
    result = drift_features(predictor, PRODUCTS[0], scores, 0, project(embeddings, len(PRODUCTS))[0])
    assert set(DRIFT_COLUMNS) <= set(result)
    assert set(result) <= set(SCHEMA.names)
    assert not [name for name in DRIFT_COLUMNS if result[name] is None]
    assert result["confidence"] == scores.confidence[0]
    assert 0 <= result["disagreement"] <= 1


def test_of_three_members_each_pair_disagrees_and_used_modalities_are_named():
    by_member = {name: np.array([[1 - p, p]]) for name, p in (("bag", 0.1), ("photo", 0.4), ("lstm", 0.5))}
    modality = {"bag": "text", "photo": "photo", "lstm": "text"}
    available = dict.fromkeys(by_member, np.array([True]))
    scores = Scores(np.array([10, 20]), np.array([[0.7, 0.3]]), by_member, available, modality)
    result = prediction_features(scores, 0)
    assert result["disagreement"] == pytest.approx((0.3 + 0.4 + 0.1) / 3)
    assert result["used"] == "text+photo"


def test_without_embeddings_nothing_is_projected():
    assert np.isnan(project({}, 2)).all()
    assert np.isnan(project({"text": np.ones((2, 3))}, 2)).sum(1).tolist() == [8, 8]


def test_text_features_are_of_the_cleaned_text(predictor):
    tfidf = tfidf_of(predictor.members)
    result = text_features(tfidf, Product("<b>AB</b> 12", "&amp;nbsp;"))
    assert (result["designation_length"], result["designation_words"]) == (5, 2)
    assert (result["digit_share"], result["capital_share"], result["description_empty"]) == (0.4, 0.4, True)
    assert text_features(tfidf, Product("piscine zzyzx"))["unknown_word_share"] == 0.5
    assert text_features(tfidf, Product())["unknown_word_share"] is None
    assert text_features(None, Product("piscine"))["unknown_word_share"] is None


def test_photo_features():
    half = Image.new("RGB", (100, 100), "white")
    half.paste((0, 0, 0), (0, 0, 50, 100))
    buffer = BytesIO()
    half.save(buffer, "PNG")
    result = photo_features(buffer.getvalue())
    assert result["brightness"] == pytest.approx(0.5, abs=0.01)
    assert result["contrast"] == pytest.approx(0.5, abs=0.01)
    assert result["border_share"] == pytest.approx(0.48, abs=0.01)  # a margin of 2 % stays
    assert result["photo_bytes"] == len(buffer.getvalue())
    assert photo_features(None)["photo_missing"] is True
    assert photo_features(b"no photo")["photo_unreadable"] is True


def test_the_square_of_a_wide_photo_reaches_beyond_it():
    buffer = BytesIO()
    Image.new("RGB", (200, 100), "red").save(buffer, "PNG")
    assert square_on_photo(buffer.getvalue(), 32) == (0, -0.5, 1, 1.5)
