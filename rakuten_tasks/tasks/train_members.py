"""Stages 3 to 6: extract features of every product once, and fit each member on them.

Which extractors and members there are is told by the configuration, so these tasks are planned by a dynamic one: each
has its own node, its own cached result and its own run in MLflow. What a dynamic task was given has lost the hashes by
which Flyte would know it, so these are cached by the input `key`, which tells all of it by content.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from flytekit import map_task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.shards import read_shard
from rakuten_tasks.data.splits import TRAIN
from rakuten_tasks.models.extractors import EXTRACTORS, TokenExtractor
from rakuten_tasks.models.members import MEMBERS, FitContext, FitResult, Member, TrainingData
from rakuten_tasks.models.members.plan import (
    active_members,
    build_extractor,
    enough_photos,
    extractor_settings,
    extractors_of,
)
from rakuten_tasks.models.scoring import products_of
from rakuten_tasks.preprocessing.feature_shards import class_index, write_shard
from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import checkpoints
from rakuten_tasks.runtime.files import content_hash, key_of, local, workspace
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.training_log import log_epoch, record
from rakuten_tasks.tasks.types import (
    Catalogue,
    FeatureShard,
    FittedMember,
    KeyedArrays,
    KeyedExtractor,
    KeyedMember,
    ResolvedConfig,
    Run,
    Shard,
    Splits,
    StoredExtractor,
)
from rakuten_tasks.training.distributed import device_for_rank, process_group, rank
from rakuten_tasks.training.hardware import hardware_info
from rakuten_tasks.training.loop import choose_device

log = logging.getLogger(__name__)

TEXT = ["row", "designation", "description"]


class Members(NamedTuple):
    fitted: list[KeyedMember]
    extractors: list[KeyedExtractor]
    features: list[list[KeyedArrays]]  # of each extractor, in the same order


@stage(pods.CPU, cached=True, ignored=("shards", "splits", "config"))
def train_tokenizer(shards: list[Shard], splits: Splits, key: str, config: TrainingConfig) -> KeyedExtractor:
    """Subwords for the LSTM, learned from training rows alone."""
    assignments = pd.read_parquet(local(splits.assignments))
    train = assignments.loc[assignments["split"] == TRAIN, "row"]

    def texts() -> Iterator[tuple[str, str]]:
        for shard in shards:
            rows = read_shard(local(shard.products), TEXT)
            rows = rows[rows["row"].isin(train)]
            yield from zip(rows["designation"], rows["description"], strict=True)

    return _stored(TokenExtractor.name, config, texts)


@stage(pods.CPU, cached=True, ignored=("config",))
def prepare_extractor(name: str, key: str, config: TrainingConfig) -> KeyedExtractor:
    """An extractor that learns nothing here: its settings, or the pretrained weights that it begins with."""
    return _stored(name, config, lambda: iter(()))


def _stored(name: str, config: TrainingConfig, texts: object) -> StoredExtractor:
    folder = workspace() / name
    build_extractor(name, config, texts, choose_device()).save(folder)  # type: ignore[arg-type]
    return StoredExtractor(name, FlyteDirectory(str(folder)), content_hash(folder))


def _extract(shard: Shard, extractor: StoredExtractor) -> FeatureShard:
    rows = read_shard(local(shard.products))
    loaded = EXTRACTORS[extractor.name].load(local(extractor.folder), choose_device())
    products = products_of(rows)
    places = np.flatnonzero([loaded.available(product) for product in products])
    path = workspace() / f"{extractor.name}.safetensors"
    arrays = loaded.extract([products[place] for place in places])
    write_shard(path, {"row": rows["row"].to_numpy(np.int64)[places], **arrays})
    return FeatureShard.of(path)


@stage(pods.CPU, cached=True, ignored=("shard",))
def extract_features(shard: Shard, key: str, extractor: StoredExtractor) -> KeyedArrays:
    """One shard's features; products without what the extractor needs are left out."""
    return _extract(shard, extractor)


@stage(pods.GPU, cached=True, ignored=("shard",))
def extract_features_on_gpu(shard: Shard, key: str, extractor: StoredExtractor) -> KeyedArrays:
    """One shard's features, by a network."""
    return _extract(shard, extractor)


@stage(pods.CPU, cached=True, deck=True, ignored=("splits", "catalogue", "config"))
def fit_member(
    name: str,
    features: list[list[FeatureShard]],
    extractors: list[StoredExtractor],
    splits: Splits,
    catalogue: Catalogue,
    key: str,
    seed: int,
    config: TrainingConfig,
    run: Run,
) -> KeyedMember:
    """A member that is fitted in seconds: out of fold, then on everything but the test rows."""
    return _fit(name, features, extractors, splits, catalogue, key, seed, config, run)


@stage(pods.GPU, cached=True, deck=True, ignored=("splits", "catalogue", "config"))
def train_network(
    name: str,
    features: list[list[FeatureShard]],
    extractors: list[StoredExtractor],
    splits: Splits,
    catalogue: Catalogue,
    key: str,
    seed: int,
    config: TrainingConfig,
    run: Run,
) -> KeyedMember:
    """A network on one GPU: with early stopping on held-out rows, then on everything but the test rows."""
    return _fit(name, features, extractors, splits, catalogue, key, seed, config, run)


@stage(pods.PHOTO, cached=True, deck=True, ignored=("splits", "catalogue", "config"))
def train_network_on_gpus(
    name: str,
    features: list[list[FeatureShard]],
    extractors: list[StoredExtractor],
    splits: Splits,
    catalogue: Catalogue,
    key: str,
    seed: int,
    config: TrainingConfig,
    run: Run,
) -> KeyedMember:
    """As train_network, on as many GPUs as pods.py says: each process runs this, rank 0 returns the member."""
    with process_group():
        return _fit(name, features, extractors, splits, catalogue, key, seed, config, run)


def read_assignments(splits: Splits, catalogue: Catalogue) -> pd.DataFrame:
    """row, prdtypecode, label (class index), split, fold of every labelled row, in the shards' order."""
    assignments = pd.read_parquet(local(splits.assignments))
    return assignments.assign(label=class_index(assignments["prdtypecode"], catalogue.codes))


def load_members(members: Sequence[FittedMember], final: bool = False) -> dict[str, Member]:
    """Ready to answer: those that were judged, or those that are registered."""
    loaded = {}
    for fitted in members:
        member = MEMBERS[fitted.name].load(local(fitted.final if final else fitted.folder), choose_device())
        member.extractors = tuple(fitted.extractors)
        loaded[fitted.name] = member
    return loaded


TASKS = {"cpu": fit_member, "gpu": train_network, "elastic": train_network_on_gpus}


def _fit(
    name: str,
    features: Sequence[Sequence[FeatureShard]],
    extractors: Sequence[StoredExtractor],
    splits: Splits,
    catalogue: Catalogue,
    key: str,
    seed: int,
    config: TrainingConfig,
    run: Run,
) -> FittedMember:
    member = MEMBERS[name]
    assignments = read_assignments(splits, catalogue)
    shards = {e.name: [local(s.file) for s in part] for e, part in zip(extractors, features, strict=True)}
    folders = {e.name: local(e.folder) for e in extractors}
    data = TrainingData.load(shards, assignments, len(catalogue.codes), folders)
    context = FitContext(seed, device_for_rank(choose_device()), config.refit)
    if rank() > 0:
        member.fit(member.settings(config), data, context)
        return None  # type: ignore[return-value]  # which nobody reads
    inputs = [s.sha256 for part in features for s in part], key, seed
    with runs.child_run(run.run_id, f"fit_{name}") as run_log, checkpoints(name, *inputs) as store:
        context = FitContext(seed, context.device, config.refit, log_epoch(run_log), store, pods.CHECKPOINT_SECONDS)
        fitted = member.fit(member.settings(config), data, context)
        work = workspace()
        epochs, deck = record(name, fitted, {"seed": seed, **member.settings(config).to_dict()}, work, run_log)
        return _saved(name, fitted, data, [e.name for e in extractors], epochs, deck, work)


def _saved(
    name: str,
    fitted: FitResult,
    data: TrainingData,
    extractors: list[str],
    epochs: FlyteFile,
    deck: FlyteFile,
    work: Path,
) -> FittedMember:
    kept = work / "kept"
    fitted.member.save(kept / "except_test")
    if fitted.final:
        fitted.final.save(kept / "everything")
    scores = pd.DataFrame(fitted.logits, columns=[str(k) for k in range(data.classes)])
    scores.insert(0, "row", data.rows[fitted.rows])
    scores.insert(1, "stopping", fitted.stopping)
    scores.to_parquet(kept / "scores.parquet", index=False)
    folders = [
        FlyteDirectory(str(kept / part)) for part in ("except_test", "everything" if fitted.final else "except_test")
    ]
    file = FlyteFile(str(kept / "scores.parquet"))
    judged, final = folders
    return FittedMember(name, extractors, judged, final, file, epochs, deck, hardware_info(), content_hash(kept))


@stage(pods.SMALL, dynamic=True)
def train_members(
    shards: list[Shard], splits: Splits, catalogue: Catalogue, resolved: ResolvedConfig, run: Run
) -> Members:
    """Plan the features and the fits that the configuration asks for; what was done before comes from the cache."""
    config = resolved.config
    assignments = read_assignments(splits, catalogue)
    photos = enough_photos(assignments.loc[assignments["has_photo"], "split"].to_numpy(np.int64))
    if not photos:
        log.warning("too few photos to learn from: no member looks at them")
    names = active_members(config, photos)
    read = {name: extractors_of(name, config) for name in names}
    contents, rows = [shard.sha256 for shard in shards], [splits.sha256, catalogue.key]
    stored, features = {}, {}
    for extractor in dict.fromkeys(e for part in read.values() for e in part):
        settings = extractor_settings(extractor, config, resolved.text, resolved.photo)
        if extractor == TokenExtractor.name:
            key = key_of([settings, contents, splits.sha256])
            made = train_tokenizer(shards=shards, splits=splits, key=key, config=config)
        else:
            made = prepare_extractor(name=extractor, key=settings, config=config)
        extract = extract_features_on_gpu if EXTRACTORS[extractor].network else extract_features
        each_shard = map_task(partial(extract, extractor=made), concurrency=pods.CONCURRENCY)
        stored[extractor] = made
        features[extractor] = each_shard(shard=shards, key=contents)
    fitted = []
    for name in names:
        member = MEMBERS[name]
        fit = TASKS[member.pod](
            name=name,
            features=[features[e] for e in read[name]],
            extractors=[stored[e] for e in read[name]],
            splits=splits,
            catalogue=catalogue,
            key=key_of([config.refit.value, member.settings(config).to_dict(), rows]),
            seed=config.seed if member.seeded else 0,
            config=config,
            run=run,
        )
        fitted.append(fit)
    return Members(fitted, list(stored.values()), list(features.values()))
