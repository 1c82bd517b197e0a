"""A pool of made-up products with the drift columns of the real pipeline, as they are and spoilt in known ways."""

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
from tqdm import tqdm

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
    """Row i of each frame is the same product. codes: what it is, (N,)."""

    codes: NDArray
    plain: pd.DataFrame
    spoilt: dict[str, pd.DataFrame]


def make_pool(predictor: Predictor, count: int, seed: int) -> Pool:
    """count: products. seed: another one than of what the predictor was trained on."""
    made = make_products(count, 0, seed)
    rows = pd.DataFrame(
        {
            "designation": [product.text.designation for product in made],
            "description": [product.text.description for product in made],
            "photo": [_drawn(product.code, Random(f"{seed} photo {row}")) for row, product in enumerate(tqdm(made))],
            "photo_status": "ok",
        }
    )
    random = Random(seed)
    dark = rows.assign(photo=[_darker(photo) for photo in rows["photo"]])
    gone = np.array([random.random() < MISSING for _ in made])
    bare = rows.assign(photo=rows["photo"].where(~gone, None), photo_status=np.where(gone, "none", "ok"))
    worded = rows.assign(**{name: [_reworded(text, random) for text in rows[name]] for name in rows.columns[:2]})
    plain = _featurize_rows(predictor, rows)
    spoilt = {DARKER: dark, WITHOUT_PHOTOS: bare, NEW_WORDS: worded}
    seen = {name: _featurize_rows(predictor, frame) for name, frame in spoilt.items()}
    return Pool(np.array([product.code for product in made]), plain, seen)


def _featurize_rows(predictor: Predictor, rows: pd.DataFrame) -> pd.DataFrame:
    starts = range(0, len(rows), SLICE)
    parts = [featurize_rows(rows[i : i + SLICE].reset_index(drop=True), predictor) for i in tqdm(starts)]
    return pd.concat(parts, ignore_index=True)


def _drawn(code: int, random: Random) -> bytes:
    return _jpeg(draw_photo(code, random))


def _darker(photo: bytes) -> bytes:
    with Image.open(BytesIO(photo)) as image:
        return _jpeg(ImageEnhance.Brightness(image).enhance(BRIGHTNESS))


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _reworded(text: str, random: Random) -> str:
    """A fifth of the words become others of the same length that no product has, tags and entities stay."""

    def other(word: re.Match[str]) -> str:
        if random.random() >= REPLACED:
            return word[0]
        return "".join(random.choice("aeioubdfglmnprstv") for _ in word[0])

    return re.sub(r"(?<![<&/\w])[^\W\d_]{2,}(?![>;\w])", other, text)


def called_drift(pool: Pool, kind: str | None, size: int, reference: int, times: int, seed: int = 0) -> float:
    """The share of windows that the rule calls drift. kind: of what is in the window, None for ordinary products.

    Each time reference and window are drawn anew, and share no product.
    """
    random = np.random.default_rng([seed, size, *map(ord, kind or "")])
    draw: Callable[[NDArray, np.random.Generator], pd.DataFrame]
    if kind == MORE_OF_A_CLASS:
        draw = lambda rest, random: _more_of_a_class(pool, rest, size, random)  # noqa: E731
    else:
        frame = pool.spoilt[kind] if kind else pool.plain
        draw = lambda rest, random: frame.iloc[rest[:size]]  # noqa: E731
    found = []
    for _ in range(times):
        order = random.permutation(len(pool.codes))
        found.append(decide(pool.plain.iloc[order[:reference]], draw(order[reference:], random)).drift)
    return float(np.mean(found))


def _more_of_a_class(pool: Pool, rest: NDArray, size: int, random: np.random.Generator) -> pd.DataFrame:
    """Products of the class take the place of as many as make its share 10 points larger than in the pool."""
    of_class = rest[pool.codes[rest] == FREQUENT]
    share = float((pool.codes == FREQUENT).mean())
    swapped = random.random(size) < POINTS / (1 - share)
    ordinary = random.choice(rest, size, replace=False)
    return pool.plain.iloc[np.where(swapped, random.choice(of_class, size), ordinary)]
