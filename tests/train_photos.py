"""Runs the task train_vgg16 in a workflow of its own, locally: python -m tests.train_photos SHARD RUN_ID"""

from __future__ import annotations

import sys
from pathlib import Path

from flytekit import workflow
from flytekit.types.file import FlyteFile
from rakuten_tasks.vgg16 import train_vgg16

from rakuten_tasks.artifacts import Arrays, Branch, Catalogue, Run
from rakuten_tasks.config import PhotoConfig


@workflow
def train(shards: list[Arrays], catalogue: Catalogue, config: PhotoConfig, seed: int, run: Run) -> Branch:
    """The one stage."""
    return train_vgg16(shards=shards, catalogue=catalogue, config=config, seed=seed, run=run)


def main(shard: str, run_id: str) -> None:
    file = FlyteFile(__file__)
    branch = train(
        shards=[Arrays.of(Path(shard))],
        catalogue=Catalogue("hash", [10, 20, 30], {}, True, file, file, file),
        config=PhotoConfig(side=32, epochs=4, batch_size=16),
        seed=3,
        run=Run(run_id, "elastic", "nowhere"),
    )
    print(Path(branch.epochs.path).read_text().replace("\n", " "))


if __name__ == "__main__":
    main(*sys.argv[1:])
