"""A pool of synthetic products with the drift columns of the real pipeline, unchanged and with simulated drift."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from random import Random

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.sample.drawings import draw_photo
from rakuten_tasks.data.sample.generate import JPEG_QUALITY, make_products
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.drift_tests import decide
from rakuten_tasks.monitoring.reference import featurize_rows

BRIGHTNESS, MISSING, REPLACED, POINTS = 0.7, 0.2, 0.2, 0.1
FREQUENT = 2583  # the challenge's most frequent class
SLICE = 256  # products observed at once
DARKER, WITHOUT_PHOTOS, NEW_WORDS, MORE_OF_A_CLASS = (
    "photos at 70 % brightness",
    "20 % of photos missing",
    "20 % of words replaced",
    "+10 points on a frequent class",
)


@dataclass(frozen=True)
class Pool:
    """Drift columns of N products; row i of each frame is the same product. codes: (N,) true classes."""

    codes: NDArray
    plain: pd.DataFrame
    drifted: dict[str, pd.DataFrame]


def make_pool(predictor: Predictor, count: int, seed: int) -> Pool:
    """Generate products and compute their drift columns. seed: must differ from the training catalogue's."""
    products = make_products(count, 0, seed)
    codes = [product.code for product in products]
    rows = pd.DataFrame(
        {
            "designation": [product.text.designation for product in products],
            "description": [product.text.description for product in products],
            "photo": [
                _draw_jpeg(code, Random(f"{seed} photo {row}"))
                for row, code in enumerate(Progress(codes, "drawing", unit=" photos"))
            ],
            "photo_status": "ok",
        }
    )
    random = Random(seed)
    dark = rows.assign(photo=[_darken(photo) for photo in rows["photo"]])
    missing = np.array([random.random() < MISSING for _ in products])
    status = np.where(missing, "none", "ok")
    without_photos = rows.assign(photo=rows["photo"].where(~missing, None), photo_status=status)
    texts = {name: [_replace_words(text, random) for text in rows[name]] for name in rows.columns[:2]}
    new_words = rows.assign(**texts)
    plain = _featurize_rows(predictor, rows)
    changed = {DARKER: dark, WITHOUT_PHOTOS: without_photos, NEW_WORDS: new_words}
    drifted = {name: _featurize_rows(predictor, frame) for name, frame in changed.items()}
    return Pool(np.array(codes), plain, drifted)


def _featurize_rows(predictor: Predictor, rows: pd.DataFrame) -> pd.DataFrame:
    starts = range(0, len(rows), SLICE)
    parts = [
        featurize_rows(rows[i : i + SLICE].reset_index(drop=True), predictor)
        for i in Progress(starts, "features", unit=" slices")
    ]
    return pd.concat(parts, ignore_index=True)


def _draw_jpeg(code: int, random: Random) -> bytes:
    return _jpeg(draw_photo(code, random))


def _darken(photo: bytes) -> bytes:
    with Image.open(BytesIO(photo)) as image:
        return _jpeg(ImageEnhance.Brightness(image).enhance(BRIGHTNESS))


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _replace_words(text: str, random: Random) -> str:
    """Replace a fifth of the words by random ones of the same length; tags and entities stay."""

    def replace(word: re.Match[str]) -> str:
        if random.random() >= REPLACED:
            return word[0]
        return "".join(random.choice("aeioubdfglmnprstv") for _ in word[0])

    return re.sub(r"(?<![<&/\w])[^\W\d_]{2,}(?![>;\w])", replace, text)


def drift_rate(pool: Pool, kind: str | None, size: int, reference: int, times: int, seed: int = 0) -> float:
    """Return the share of windows in which drift is reported. kind: simulated drift, None for unchanged products.

    Each repetition samples a new reference and window without a common product.
    """
    random = np.random.default_rng([seed, size, *map(ord, kind or "")])
    draw: Callable[[NDArray, np.random.Generator], pd.DataFrame]
    if kind == MORE_OF_A_CLASS:
        draw = lambda rest, random: _more_of_a_class(pool, rest, size, random)  # noqa: E731
    else:
        frame = pool.drifted[kind] if kind else pool.plain
        draw = lambda rest, random: frame.iloc[rest[:size]]  # noqa: E731
    reported = []
    for _ in range(times):
        order = random.permutation(len(pool.codes))
        reported.append(decide(pool.plain.iloc[order[:reference]], draw(order[reference:], random)).drift)
    return float(np.mean(reported))


def _more_of_a_class(pool: Pool, rest: NDArray, size: int, random: np.random.Generator) -> pd.DataFrame:
    """Replace products by some of the class until its share is 10 points larger than in the pool."""
    of_class = rest[pool.codes[rest] == FREQUENT]
    share = float((pool.codes == FREQUENT).mean())
    swapped = random.random(size) < POINTS / (1 - share)
    ordinary = random.choice(rest, size, replace=False)
    return pool.plain.iloc[np.where(swapped, random.choice(of_class, size), ordinary)]
