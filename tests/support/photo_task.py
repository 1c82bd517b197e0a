"""What the task train_network_on_gpus gets to train VGG16 on a few made-up photos.

python -m tests.support.photo_task FOLDER RUN_ID runs it in a workflow of its own, locally.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flytekit import workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import PhotoConfig, Refit, TrainingConfig, Weights
from rakuten_tasks.data.splits import BLENDING, TRAIN, VALIDATION
from rakuten_tasks.models.extractors import PixelExtractor
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from rakuten_tasks.tasks.types import Catalogue, FeatureShard, FittedMember, Run, Splits, StoredExtractor

CODES = [10, 20, 30]


def config_of(epochs: int) -> TrainingConfig:
    """VGG16 from random weights, judged and not refitted."""
    photo = PhotoConfig(weights=Weights.RANDOM, image_size=32, epochs=epochs, batch_size=16)
    return TrainingConfig(seed=3, refit=Refit.NONE, photo=photo)


def task_inputs(folder: Path, run_id: str, epochs: int = 4, train: int = 75, held_out: int = 45) -> dict[str, Any]:
    """Small noisy photos of three classes that differ in brightness; written to the folder, if it is not there."""
    count = train + held_out
    if not folder.exists():
        folder.mkdir(parents=True)
        dice = np.random.default_rng(0)
        label = np.arange(count) % 3
        pixels = dice.integers(0, 160, (count, 32, 32, 3)) + 30 * label[:, None, None, None]
        write_shard(folder / "pixels.safetensors", {"row": np.arange(count), "pixels": pixels.astype(np.uint8)})
        split = np.repeat([TRAIN, VALIDATION, BLENDING], [train, held_out - 5, 5])
        rows = {"row": np.arange(count), "prdtypecode": np.array(CODES)[label], "split": split, "fold": 0}
        pd.DataFrame(rows).assign(has_photo=True).to_parquet(folder / "assignments.parquet", index=False)
        PixelExtractor(32).save(folder / "pixels")
        (folder / "empty").touch()
    file = FlyteFile(str(folder / "empty"))
    config = config_of(epochs)
    return {
        "name": "vgg16",
        "features": [[FeatureShard.of(folder / "pixels.safetensors")]],
        "extractors": [
            StoredExtractor("pixels", FlyteDirectory(str(folder / "pixels")), hash_folder(folder / "pixels"), [])
        ],
        "splits": Splits(file, FlyteFile(str(folder / "assignments.parquet")), {}, file, "splits"),
        "catalogue": Catalogue("hash", CODES, {}, True, file, file, file),
        "key": "of this fit",
        "seed": 3,
        "config": config,
        "run": Run(run_id, "elastic", "nowhere"),
    }


@workflow
def train(
    name: str,
    features: list[list[FeatureShard]],
    extractors: list[StoredExtractor],
    splits: Splits,
    catalogue: Catalogue,
    key: str,
    seed: int,
    config: TrainingConfig,
    run: Run,
) -> FittedMember:
    """The one stage."""
    return train_network_on_gpus(
        name=name,
        features=features,
        extractors=extractors,
        splits=splits,
        catalogue=catalogue,
        key=key,
        seed=seed,
        config=config,
        run=run,
    )


if __name__ == "__main__":
    print(Path(train(**task_inputs(Path(sys.argv[1]), sys.argv[2])).epochs.path).read_text().replace("\n", " "))
