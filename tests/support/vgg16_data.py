"""120 photos of three classes for VGG16, written once and read by several processes; imports no Flyte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.data.splits import BLENDING, TRAIN, VALIDATION
from rakuten_tasks.models.backbones import load_backbone
from rakuten_tasks.models.extractors import MapExtractor, PixelExtractor
from rakuten_tasks.models.members.member import TrainingData
from rakuten_tasks.preprocessing.feature_shards import write_shard
from tests.support.tiny_models import write_vgg16
from tests.support.training_data import CPU

LABELS = np.arange(120) % 3
SPLITS = np.repeat([TRAIN, VALIDATION, BLENDING], [75, 40, 5])


def write_data(folder: Path) -> Path:
    """Small noisy photos of three classes that differ in brightness, and what frozen blocks might see of them."""
    dice = np.random.default_rng(0)
    pixels = dice.integers(0, 160, (120, 32, 32, 3)) + 30 * LABELS[:, None, None, None]
    write_shard(folder / "pixels.safetensors", {"row": np.arange(120), "pixels": pixels.astype(np.uint8)})
    PixelExtractor(32).save(folder / "pixels")
    file = write_vgg16(folder / "vgg16.safetensors")
    frozen = PhotoConfig(weights=Weights.FILE, weights_file=str(file), image_size=32)
    extractor = MapExtractor(load_backbone(frozen, CPU))
    extractor.save(folder / "maps")
    sizes = {"photo": (2944,), "maps": (512, 2, 2)}
    seen = {name: dice.normal(size=(120, *size)) for name, size in sizes.items()}
    seen["photo"] += 0.3 * LABELS[:, None]
    arrays = {name: values.astype(np.float16) for name, values in seen.items()}
    write_shard(folder / "maps.safetensors", {"row": np.arange(120), **arrays})
    return folder


def read_data(folder: Path) -> TrainingData:
    """What `write_data` wrote, for either kind of fit."""
    rows = pd.DataFrame({"row": np.arange(120), "label": LABELS, "split": SPLITS, "fold": 0})
    names = ("pixels", "maps")
    shards = {name: [folder / f"{name}.safetensors"] for name in names}
    return TrainingData.load(shards, rows, 3, {name: folder / name for name in names})
