"""A dozen products with random photos of 40 pixels, and two configurations of the member `vgg16` for them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.models.extractors import Extractor
from rakuten_tasks.models.members.member import TrainingData
from rakuten_tasks.preprocessing.product import Product
from tests.support.training_data import training_data

SPLITS = np.array([TRAIN] * 7 + [VALIDATION] * 2 + [BLENDING] * 2 + [TEST] * 2)


LABELS = np.arange(len(SPLITS)) % 3


SCRATCH = PhotoConfig(weights=Weights.RANDOM, image_size=32, epochs=1, batch_size=2)  # 7: a last batch of one


TUNED = PhotoConfig(weights=Weights.IMAGENET, image_size=32, epochs=2, batch_size=3, fine_tune_epochs=1)


def photos(seed: int = 0) -> list[Product]:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(SPLITS), 40, 40, 3), dtype=np.uint8)
    products = []
    for photo in pixels:
        buffer = BytesIO()
        Image.fromarray(photo).save(buffer, "PNG")
        products.append(Product("", "", buffer.getvalue()))
    return products


def data_of(folder: Path, extractor: Extractor, products: list[Product], labels: NDArray = LABELS) -> TrainingData:
    folds = np.zeros(len(products), dtype=np.int64)
    return training_data(folder, [extractor], products, labels, SPLITS, folds)
