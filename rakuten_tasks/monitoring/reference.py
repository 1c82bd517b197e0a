"""The reference of drift checks: held-out rows with the champion's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, EMBEDDING, PREDICTION_COLUMNS
from rakuten_tasks.monitoring.features import photo_features, prediction_features, project, text_features
from rakuten_tasks.preprocessing.ngrams import Tfidf

# photo_status of products without a photo. Other values than these and "ok" mean an unreadable photo.
NO_PHOTO = ("none", "missing")


def reference_rows(
    chunks: Iterable[pd.DataFrame], tfidf: Tfidf | None, scores: Scores, embeddings: Mapping[str, NDArray]
) -> pd.DataFrame:
    """Add DRIFT_COLUMNS to rows and drop their photos. chunks: rows with photos, in the order of the scores."""
    used, parts, start = photos_used(scores), [], 0
    for chunk in chunks:
        if len(chunk):
            features = catalogue_features(chunk, tfidf, used[start : start + len(chunk)])
            parts.append((chunk.drop(columns=["photo"]), features))
            start += len(chunk)
    rows, features = (pd.concat([pair[i] for pair in parts], ignore_index=True) for i in (0, 1))
    joined = pd.concat([rows, features, prediction_columns(scores, embeddings)], axis=1)
    return joined.reindex(columns=[*rows.columns, *DRIFT_COLUMNS])


def catalogue_features(rows: pd.DataFrame, tfidf: Tfidf | None, used: Sequence[bool] | None = None) -> pd.DataFrame:
    """Return TEXT_COLUMNS and PHOTO_COLUMNS of catalogue rows with their photos (schema.TEXT).

    used: (N,) whether the prediction read the photo; None without predictions.
    """
    products = products_of(rows)
    read = [True] * len(products) if used is None else used
    features = pd.DataFrame(
        [
            {**text_features(tfidf, product), **photo_features(product.photo, photo_used)}
            for product, photo_used in zip(products, read, strict=True)
        ]
    )
    status = rows["photo_status"].to_numpy()
    # ingest drops the bytes of unreadable photos: only the status distinguishes them from products without a photo
    unreadable = features["photo_unreadable"].to_numpy(bool) | ~np.isin(status, (*NO_PHOTO, "ok"))
    return features.assign(photo_unreadable=unreadable, photo_missing=features["photo_missing"] & ~unreadable)


def featurize_rows(rows: pd.DataFrame, predictor: Predictor) -> pd.DataFrame:
    """Return DRIFT_COLUMNS of catalogue rows with their photos."""
    scores, embeddings = predictor.score_with_embeddings(products_of(rows))
    features = catalogue_features(rows, tfidf_of(predictor.members), photos_used(scores))
    return pd.concat([features, prediction_columns(scores, embeddings)], axis=1).reindex(columns=DRIFT_COLUMNS)


def photos_used(scores: Scores) -> list[bool]:
    """Tell whether each prediction read the photo. (N,)"""
    return ["photo" in scores.modalities(row) for row in range(len(scores.probabilities))]


def prediction_columns(scores: Scores, embeddings: Mapping[str, NDArray]) -> pd.DataFrame:
    """Return PREDICTION_COLUMNS and EMBEDDING of N products."""
    count = len(scores.probabilities)
    predictions = [prediction_features(scores, row) for row in range(count)]
    frame = pd.DataFrame(predictions, columns=PREDICTION_COLUMNS).astype({"disagreement": float})
    return pd.concat([frame, pd.DataFrame(project(embeddings, count), columns=EMBEDDING)], axis=1)
