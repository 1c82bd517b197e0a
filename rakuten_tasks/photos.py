"""Stage 4: photos decoded, cropped and resized once, and what a frozen network sees in them."""

from __future__ import annotations

import numpy as np
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Catalogue, KeyedArrays, Shard, local, workspace
from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import Ledger
from rakuten_tasks.classifier import photos as photo
from rakuten_tasks.classifier.arrays import class_index, write_shard
from rakuten_tasks.classifier.photo_training import write_features
from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.stage import stage


@stage(pods.CPU, cached=True)
def prepare_photos(shard: Shard, side: int, ledger: FlyteFile, catalogue: Catalogue) -> KeyedArrays:
    """One shard's photos as uint8 (n, side, side, 3); products without one are left out."""
    rows = read_shard(local(shard.products), ["row", "designation", "prdtypecode", "photo"])
    rows = rows[rows["photo"].notna()]
    path = workspace() / "pixels.safetensors"
    arrays = {
        "row": rows["row"].to_numpy(np.int64),
        "label": class_index(rows["prdtypecode"], catalogue.codes),
        "side": Ledger.load(local(ledger)).sides(rows["designation"]),
        "pixels": photo.prepare_photos(rows["photo"].tolist(), side),
    }
    write_shard(path, arrays)
    return Arrays.of(path)


@stage(pods.GPU, cached=True)
def photo_features(photos: Arrays, config: PhotoConfig) -> KeyedArrays:
    """What the frozen convolutions see, once per photo; the photos themselves where nothing is frozen."""
    if config.weights is Weights.RANDOM:
        return photos
    path = workspace() / "features.safetensors"
    write_features(local(photos.file), path, config)
    return Arrays.of(path)
