"""Tiny labelled products for members, with features in shards as extract_features writes them; imports no Flyte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rakuten_tasks.data.assignments import assign_folds
from rakuten_tasks.data.splits import BLENDING, FOLDS, TEST, TRAIN, VALIDATION, hash_titles
from rakuten_tasks.models.extractors import Extractor
from rakuten_tasks.models.members.member import TrainingData
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.state import EpochMetrics

CPU = torch.device("cpu")
THINGS = ["piscine gonflable ronde", "figurine de collection", "roman policier broché"]
MORE = ["neuf", "occasion", "lot de deux", "bleu", "rouge", "envoi rapide", "état correct"]


def labelled_products(count: int, held_out: int = 15, seed: int = 0) -> tuple[list[Product], NDArray, NDArray]:
    """Products of three classes in turn, a third of them without description. -> them, labels, splits

    held_out: rows on each of validation, blending and test.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    products = []
    for label in labels:
        title = f"{THINGS[label]} {random.choice(MORE)} {random.integers(50)}"
        products.append(Product(title, " ".join(random.choice(MORE, 6)) if random.random() < 0.65 else ""))
    held = [held_out] * 3
    splits = np.repeat([TRAIN, VALIDATION, BLENDING, TEST], [count - sum(held), *held])
    return products, labels, random.permutation(splits)


def row_numbers(count: int) -> NDArray:
    """Of the catalogue: never a row's place."""
    return 3 * np.arange(count, dtype=np.int64) + 5


def write_features(folder: Path, extractor: Extractor, products: Sequence[Product], parts: int = 2) -> list[Path]:
    """Features of all products in so many shards."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, places in enumerate(np.array_split(np.arange(len(products)), parts)):
        paths.append(folder / f"{extractor.name}-{number}.safetensors")
        arrays = extractor.extract([products[place] for place in places])
        write_shard(paths[-1], {"row": row_numbers(len(products))[places], **arrays})
    return paths


def training_data(
    folder: Path,
    extractors: Sequence[Extractor],
    products: Sequence[Product],
    labels: NDArray,
    splits: NDArray,
    folds: NDArray | None = None,
) -> TrainingData:
    """What a member of three classes is fitted on. Extractors are saved beside their features."""
    if folds is None:
        folds = assign_folds(hash_titles(product.designation for product in products), labels, FOLDS)
    shards = {extractor.name: write_features(folder / "features", extractor, products) for extractor in extractors}
    for extractor in extractors:
        extractor.save(folder / extractor.name)
    frame = pd.DataFrame({"row": row_numbers(len(products)), "label": labels, "split": splits, "fold": folds})
    frame.sample(frac=1, random_state=0).to_parquet(folder / "assignments.parquet")
    return read_training_data(folder, list(shards))


def read_training_data(folder: Path, extractors: Sequence[str]) -> TrainingData:
    """What `training_data` wrote."""
    shards = {name: sorted((folder / "features").glob(f"{name}-*.safetensors")) for name in extractors}
    folders = {name: folder / name for name in extractors}
    return TrainingData.load(shards, pd.read_parquet(folder / "assignments.parquet"), 3, folders)


def without_timings(epochs: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """Without what differs from run to run; what is no number equals itself."""
    times: dict = {field.name: 0.0 for field in fields(EpochMetrics) if field.name.endswith("seconds")}
    known = [{f.name: getattr(epoch, f.name) for f in fields(EpochMetrics)} for epoch in epochs]
    return [
        replace(epoch, **times | {name: -1.0 for name, value in figures.items() if value != value})
        for epoch, figures in zip(epochs, known, strict=True)
    ]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
