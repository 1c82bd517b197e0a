"""Stage 3: clean text, a vocabulary from the training side only, and each shard's tokens and n-grams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Arrays, Catalogue, KeyedArrays, KeyedFolder, Run, Shard, local, workspace
from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import TRAIN, Ledger
from rakuten_tasks.classifier.arrays import class_index, write_shard
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.config import TextConfig
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage

TEXT = ["row", "designation", "description", "prdtypecode"]


@stage(pods.CPU, cached=True)
def fit_vocabulary(shards: list[Shard], ledger: FlyteFile, config: TextConfig, run: Run) -> KeyedFolder:
    """Train the tokenizer and weigh the n-grams, on training rows alone."""
    sides = Ledger.load(local(ledger))

    def training_rows() -> Iterator[tuple[str, str]]:
        for shard in shards:
            rows = read_shard(local(shard.products), TEXT)
            rows = rows[sides.sides(rows["designation"]) == TRAIN]
            yield from zip(rows["designation"], rows["description"], strict=True)

    with runs.child_run(run.run_id, "fit_vocabulary") as log:
        vocabulary = Vocabulary.fit(training_rows, config)
        log.metrics({"tokens": vocabulary.size})
    folder = workspace() / "vocabulary"
    vocabulary.save(folder)
    return FlyteDirectory(str(folder))


@stage(pods.CPU, cached=True)
def encode_text(shard: Shard, vocabulary: FlyteDirectory, ledger: FlyteFile, catalogue: Catalogue) -> KeyedArrays:
    """One shard's tokens and n-grams."""
    rows = read_shard(local(shard.products), TEXT)
    encoded = Vocabulary.load(local(vocabulary)).encode(rows["designation"].tolist(), rows["description"].tolist())
    path = workspace() / "text.safetensors"
    keys = {
        "row": rows["row"].to_numpy(np.int64),
        "label": class_index(rows["prdtypecode"], catalogue.codes),
        "side": Ledger.load(local(ledger)).sides(rows["designation"]),
    }
    write_shard(path, keys | encoded)
    return Arrays.of(path)
