from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rakuten_tasks.models.bundle import REFERENCE
from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.monitoring.columns import EMBEDDING, PREDICTION_COLUMNS
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.drift_tests import decide
from rakuten_tasks.monitoring.features import drift_features, project
from rakuten_tasks.monitoring.reference import reference_rows
from tests.support.bundles import write_bundle
from tests.support.catalogues import photo_bytes
from tests.support.drift_rows import drift_rows


@pytest.fixture(scope="module", params=[None, {"words": 0.5}], ids=["all members", "cascade"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"), thresholds=request.param))


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": [3, 5, 8],
            "designation": ["Roman policier", "Drone", "Piscine ronde"],
            "description": ["Un livre", "", "avec pompe"],
            "photo": [photo_bytes(1), None, None],
            "photo_status": ["ok", "none", "truncated"],
        }
    )


def test_the_reference_holds_what_serving_logs_of_the_same_products(predictor):
    table = rows()
    products = products_of(table)
    scores, embeddings = predictor.score_with_embeddings(products)
    parts = [table[:2], table[2:2], table[2:]]
    reference = reference_rows(parts, tfidf_of(predictor.members), scores, embeddings)
    projected = project(embeddings, len(products))
    logged = pd.DataFrame([drift_features(predictor, p, scores, i, projected[i]) for i, p in enumerate(products)])
    numbers = ["designation_length", "unknown_word_share", "brightness", *PREDICTION_COLUMNS, *EMBEDDING]
    np.testing.assert_allclose(reference[numbers].astype(float), logged[numbers].astype(float), equal_nan=True)
    assert reference["language"].tolist() == logged["language"].tolist()
    assert reference["row"].tolist() == [3, 5, 8]


def test_of_a_photo_that_was_not_looked_at_only_its_size_is_known(tmp_path: Path):
    table = rows()
    for thresholds, missing in ((None, [False, True, True]), ({"words": 0.0}, [True, True, True])):
        predictor = Predictor.load(write_bundle(tmp_path / str(thresholds), thresholds=thresholds))
        scores, embeddings = predictor.score_with_embeddings(products_of(table))
        reference = reference_rows([table], tfidf_of(predictor.members), scores, embeddings)
        for name in ("brightness", "contrast", "border_share", EMBEDDING[-1]):
            assert reference[name].isna().tolist() == missing
        assert reference["photo_bytes"].notna().tolist() == [True, False, False]
        assert reference["photo_missing"].tolist() == [False, True, False]


def test_a_photo_that_could_not_be_read_is_distinguished_from_a_missing_one(predictor):
    table = rows()
    scores, embeddings = predictor.score_with_embeddings(products_of(table))
    reference = reference_rows([table], tfidf_of(predictor.members), scores, embeddings)
    assert reference["photo_missing"].tolist() == [False, True, False]
    assert reference["photo_unreadable"].tolist() == [False, False, True]


def test_of_a_champion_from_before_a_column_that_column_is_skipped_with_the_reason(tmp_path: Path):
    reference = drift_rows(seed=1)
    reference.drop(columns="contrast").to_parquet(tmp_path / REFERENCE)
    decision = decide(pd.read_parquet(tmp_path / REFERENCE), drift_rows(seed=2))
    assert decision.outcome is Outcome.NO_DRIFT
    assert [skipped.column for skipped in decision.skipped] == ["contrast"]
