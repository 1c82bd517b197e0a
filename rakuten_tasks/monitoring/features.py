"""Drift columns of a product and of its prediction, the same for reference and live requests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.pool import MODALITIES
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.monitoring.columns import EMBEDDING, PROJECTED
from rakuten_tasks.preprocessing.hashing import WORD
from rakuten_tasks.preprocessing.language import language
from rakuten_tasks.preprocessing.ngrams import Tfidf
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.photos import decode_photo, kept_box
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean

SMALL = 125  # pixels: photo features are computed on a copy a quarter of the challenge's 500, in 0.5 ms
TOP = 5


def drift_features(
    predictor: Predictor, product: Product, scores: Scores, row: int, projected: NDArray
) -> dict[str, Any]:
    """Return the drift columns of one product. row: its index in `scores`. projected: (PROJECTED,), from `project`."""
    return {
        **text_features(tfidf_of(predictor.members), product),
        **photo_features(product.photo, "photo" in scores.modalities(row)),
        **prediction_features(scores, row),
        **{name: None if math.isnan(value) else float(value) for name, value in zip(EMBEDDING, projected, strict=True)},
    }


def text_features(tfidf: Tfidf | None, product: Product) -> dict[str, Any]:
    """Return TEXT_COLUMNS of a product. tfidf: fitted on the training rows; without it, no word share is computed."""
    title, description = clean(product.designation), clean(product.description)
    text = f"{title} {description}"
    words = WORD.findall(text.lower())
    return {
        "designation_length": len(title),
        "designation_words": len(title.split()),
        "digit_share": sum(map(str.isdigit, title)) / len(title) if title else None,
        "capital_share": sum(map(str.isupper, title)) / len(title) if title else None,
        "description_empty": not description,
        "language": language(text),
        "unknown_word_share": float(1 - tfidf.knows(words).mean()) if words and tfidf else None,
    }


def photo_features(photo: bytes | None, used: bool = True) -> dict[str, Any]:
    """Return PHOTO_COLUMNS of a product. used: whether the prediction read the photo; else its pixels are not read."""
    features = {
        "photo_missing": photo is None,
        "photo_unreadable": False,
        "photo_bytes": len(photo) if photo else None,
    }
    if photo is None or not used:
        return features
    try:
        small = decode_photo(photo, SMALL)
    except PhotoError:
        return {**features, "photo_unreadable": True}
    small.thumbnail((SMALL, SMALL), Image.Resampling.BOX)
    left, upper, right, lower = kept_box(small)
    grey = np.asarray(small.convert("L"), dtype=np.float32) / 255  # (H, W)
    return {
        **features,
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "border_share": 1 - (right - left) * (lower - upper) / grey.size,
    }


def prediction_features(scores: Scores, row: int) -> dict[str, Any]:
    """Return PREDICTION_COLUMNS, the top classes and the modalities that were used."""
    pooled = scores.probabilities[row]
    codes, probabilities = scores.top(TOP)
    available = [name for name, mask in scores.available.items() if mask[row]]
    pairs = combinations([scores.by_member[name][row] for name in available], 2)
    distances = [float(np.abs(first - second).sum() / 2) for first, second in pairs]
    return {
        "predicted": int(scores.predicted[row]),
        "confidence": float(scores.confidence[row]),
        "entropy": float(-(pooled * np.log(np.maximum(pooled, np.finfo(float).tiny))).sum()),
        "disagreement": float(np.mean(distances)) if distances else None,
        "used": "+".join(scores.modalities(row)),
        "top_codes": codes[row].tolist(),
        "top_probabilities": probabilities[row].tolist(),
    }


def project(embeddings: Mapping[str, NDArray], rows: int) -> NDArray:
    """Project embeddings onto fixed random directions; NaN for a missing modality.

    (rows, E) by modality -> (rows, PROJECTED). The same embedding gives the same numbers in every process.
    """
    widths = [len(part) for part in np.array_split(np.arange(PROJECTED), len(MODALITIES))]
    parts = []
    for seed, (width, modality) in enumerate(zip(widths, MODALITIES, strict=True)):
        if modality not in embeddings:
            parts.append(np.full((rows, width), np.nan))
            continue
        size = embeddings[modality].shape[1]
        directions = np.random.default_rng(seed).standard_normal((size, width)) / math.sqrt(size)
        parts.append(embeddings[modality] @ directions)  # (N, E) @ (E, width) -> (N, width)
    return np.concatenate(parts, 1)
