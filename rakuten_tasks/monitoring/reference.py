"""The reference of drift checks: held-out rows, and test rows with the champion's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.models.bundle import REFERENCE
from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.monitoring.columns import ANSWER_COLUMNS, DRIFT_COLUMNS, EMBEDDING
from rakuten_tasks.monitoring.features import photo_features, prediction_features, project, text_features
from rakuten_tasks.preprocessing.ngrams import Tfidf

ABSENT = ("none", "missing")  # photo_status of products without a photo; the others than "ok" could not be read


def reference_rows(
    photographed: Iterable[pd.DataFrame], tfidf: Tfidf | None, scores: Scores, embeddings: Mapping[str, NDArray]
) -> pd.DataFrame:
    """Rows with DRIFT_COLUMNS. photographed: them with their photos, some at a time, in the order of the scores."""
    parts = [(part.drop(columns=["photo"]), catalogue_features(part, tfidf)) for part in photographed if len(part)]
    rows, seen = (pd.concat([pair[i] for pair in parts], ignore_index=True) for i in (0, 1))
    joined = pd.concat([rows, seen, answers(scores, embeddings)], axis=1)
    return joined.reindex(columns=[*rows.columns, *DRIFT_COLUMNS])


def catalogue_features(rows: pd.DataFrame, tfidf: Tfidf | None) -> pd.DataFrame:
    """TEXT_COLUMNS and PHOTO_COLUMNS of catalogue rows with their photos (schema.SHARD)."""
    traits = pd.DataFrame(
        [{**text_features(tfidf, product), **photo_features(product.photo)} for product in products_of(rows)]
    )
    status = rows["photo_status"].to_numpy()
    # ingest drops the bytes of what cannot be read: only the status still tells it from no photo
    unreadable = traits["photo_unreadable"].to_numpy(bool) | ~np.isin(status, (*ABSENT, "ok"))
    return traits.assign(photo_unreadable=unreadable, photo_missing=traits["photo_missing"] & ~unreadable)


def observe_rows(rows: pd.DataFrame, predictor: Predictor) -> pd.DataFrame:
    """DRIFT_COLUMNS of catalogue rows with their photos, as the predictor sees them."""
    traits = catalogue_features(rows, tfidf_of(predictor.members))
    answered = answers(*predictor.score_with_embeddings(products_of(rows)))
    return pd.concat([traits, answered], axis=1).reindex(columns=DRIFT_COLUMNS)


def answers(scores: Scores, embeddings: Mapping[str, NDArray]) -> pd.DataFrame:
    """ANSWER_COLUMNS and EMBEDDING of N products."""
    told = [prediction_features(scores, row) for row in range(len(scores.probabilities))]
    frame = pd.DataFrame(told, columns=ANSWER_COLUMNS).astype({"disagreement": float})
    projected = project(embeddings, len(scores.probabilities))
    return pd.concat([frame, pd.DataFrame(projected, columns=EMBEDDING)], axis=1)


def load_reference(bundle: Path) -> pd.DataFrame:
    """A bundle's reference rows."""
    return pd.read_parquet(bundle / REFERENCE)
