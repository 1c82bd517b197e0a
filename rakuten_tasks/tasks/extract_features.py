"""Stages 3 and 4: prepare the extractors, and extract features of every assigned row once. Most pods run one of these.

train_members plans them, so they are cached by the input `key`; see there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from flytekit.types.directory import FlyteDirectory

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.shards import iter_products, iter_text
from rakuten_tasks.data.splits import TRAIN
from rakuten_tasks.models.extractors import EXTRACTORS
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.preprocessing.feature_shards import concatenate, write_shard
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.assignments import read_texts
from rakuten_tasks.tasks.types import FeatureShard, KeyedArrays, KeyedExtractor, Shard, Splits, StoredExtractor
from rakuten_tasks.training.hardware import choose_device

TEXT = ["row", "designation", "description"]


@stage(pods.CPU, cached=True, ignored=("shards", "splits", "config"))
def fit_extractor(name: str, shards: list[Shard], splits: Splits, key: str, config: TrainingConfig) -> KeyedExtractor:
    """Fit a tokenizer's subwords, or the scales of a network in int8, on training rows alone."""
    assignments = pd.read_parquet(local(splits.assignments))
    return _build_extractor(name, config, shards, assignments[assignments["split"] == TRAIN])


@stage(pods.CPU, cached=True, ignored=("config",))
def prepare_extractor(name: str, key: str, config: TrainingConfig) -> KeyedExtractor:
    """Save an extractor that needs no fit: its settings, or its pretrained weights."""
    return _build_extractor(name, config, [], pd.DataFrame(columns=["row", "shard", "has_photo"]))


def _build_extractor(
    name: str, config: TrainingConfig, shards: Sequence[Shard], train: pd.DataFrame
) -> StoredExtractor:
    """train: the assignments of the training rows."""
    # imports every member, of which `_extract` needs none
    from rakuten_tasks.models.members.plan import build_extractor, calibration_rows

    def texts() -> Iterator[tuple[str, str]]:
        for rows in read_texts(shards, train, TEXT):
            yield from zip(rows["designation"], rows["description"], strict=True)

    def photos() -> list[bytes]:
        rows = calibration_rows(train.loc[train["has_photo"], "row"].to_numpy(np.int64))
        positions = train.loc[train["row"].isin(rows), "shard"].unique().tolist()
        chunks = (chunk for position in positions for chunk in iter_products(shards[position].located(), rows))
        return [photo for chunk in chunks for photo in chunk["photo"]]

    folder = workspace() / name
    build_extractor(name, config, texts, photos, choose_device()).save(folder)
    training_only = list(EXTRACTORS[name].training_only)
    return StoredExtractor(name, FlyteDirectory(str(folder)), hash_folder(folder), training_only)


def _extract(shard: Shard, position: int, splits: Splits, extractor: StoredExtractor) -> FeatureShard:
    assignments = pd.read_parquet(local(splits.assignments), columns=["row", "shard"])
    selected = assignments.loc[assignments["shard"] == position, "row"]
    loaded = EXTRACTORS[extractor.name].load(local(extractor.folder), choose_device())
    stored = shard.located()
    if loaded.modality == "photo":
        chunks = iter_products(stored, selected)
    else:
        chunks = (rows[rows["row"].isin(selected)].assign(photo=None) for rows in iter_text([stored.text], TEXT))
    parts = []
    for rows in chunks:  # the photos of one chunk at a time are in memory
        products = products_of(rows)
        available = np.flatnonzero([loaded.available(product) for product in products])
        if len(available):
            arrays = loaded.extract([products[index] for index in available])
            parts.append({"row": rows["row"].to_numpy(np.int64)[available], **arrays})
    path = workspace() / f"{extractor.name}.safetensors"
    write_shard(path, concatenate(parts or [{"row": np.empty(0, np.int64), **loaded.extract([])}]))
    return FeatureShard.of(path)


@stage(pods.CPU, cached=True, ignored=("shard", "position", "splits"))
def extract_features(shard: Shard, key: str, position: int, splits: Splits, extractor: StoredExtractor) -> KeyedArrays:
    """Extract features of a shard's assigned rows, without products that lack the input that the extractor reads."""
    return _extract(shard, position, splits, extractor)


@stage(pods.GPU, cached=True, ignored=("shard", "position", "splits"))
def extract_features_on_gpu(
    shard: Shard, key: str, position: int, splits: Splits, extractor: StoredExtractor
) -> KeyedArrays:
    """Extract features of a shard's assigned rows with a network."""
    return _extract(shard, position, splits, extractor)
