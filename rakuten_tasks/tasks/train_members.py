"""Stages 3 to 6: plan the extraction of features, and fit each member on them.

The configuration names the extractors and members, so a dynamic task plans the others: each has a node, a cached result
and an MLflow run of its own. Inside of a dynamic task values have lost their content hashes (types.Keyed...), so the
other tasks are cached by the input `key`, a hash of all inputs that decide the result.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.models.extractors import EXTRACTORS
from rakuten_tasks.models.members import MEMBERS, FitContext, FitResult, Member, TrainingData
from rakuten_tasks.models.members.plan import (
    active_members,
    enough_photos,
    extractor_settings,
    extractors_of,
    photo_bytes,
    reads_training_rows,
)
from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.disk import require_pod_disk
from rakuten_tasks.runtime.execution import checkpoints
from rakuten_tasks.runtime.files import fetch_all, local, workspace
from rakuten_tasks.runtime.map_items import map_items
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder, hash_json
from rakuten_tasks.tasks.assignments import read_assignments
from rakuten_tasks.tasks.extract_features import (
    extract_features,
    extract_features_on_gpu,
    fit_extractor,
    prepare_extractor,
)
from rakuten_tasks.tasks.training_log import log_epoch, log_fit
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
from rakuten_tasks.training.distributed import device_for_rank, once_on_each_node, process_group, rank
from rakuten_tasks.training.hardware import choose_device, hardware_info

log = logging.getLogger(__name__)

EXCEPT_TEST, EVERYTHING, SCORES = "except_test", "everything", "scores.parquet"  # in a fitted member's folder


class Members(NamedTuple):
    fitted: list[KeyedMember]
    extractors: list[KeyedExtractor]
    features: list[list[KeyedArrays]]  # one list of shards for each extractor, in the same order


@stage(pods.FIT, cached=True, deck=True, ignored=("splits", "catalogue", "config"))
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
    """Fit a member that takes seconds: out of fold, then on all rows but the test rows."""
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
    """Train a network on one GPU: with early stopping on held-out rows, then on all rows but the test rows."""
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
    """Train a network on the GPUs of pods.PHOTO, one process each, of which rank 0 returns the member."""
    with process_group():
        return _fit(name, features, extractors, splits, catalogue, key, seed, config, run)


def load_members(members: Sequence[FittedMember]) -> dict[str, Member]:
    """Load the members as fitted on all rows but the test rows."""
    loaded = {}
    for fitted in members:
        member = MEMBERS[fitted.name].load(local(fitted.folder), choose_device())
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
    files = [*(e.folder for e in extractors), *(s.file for part in features for s in part)]
    paths = iter(once_on_each_node(lambda: fetch_all(files)))
    folders = {e.name: next(paths) for e in extractors}
    shards = {e.name: [next(paths) for _ in part] for e, part in zip(extractors, features, strict=True)}
    data = TrainingData.load(shards, assignments, len(catalogue.codes), folders)
    context = FitContext(seed, device_for_rank(choose_device()), config.refit)
    if rank() > 0:
        member.fit(member.settings(config), data, context)
        return None  # type: ignore[return-value]  # Flyte reads rank 0's alone
    inputs = [s.sha256 for part in features for s in part], key, seed
    with runs.child_run(run.run_id, f"fit_{name}") as run_log, checkpoints(name, *inputs) as store:
        context = FitContext(seed, context.device, config.refit, log_epoch(run_log), store, pods.CHECKPOINT_SECONDS)
        result = member.fit(member.settings(config), data, context)
        work = workspace()
        epochs, deck = log_fit(name, result, {"seed": seed, **member.settings(config).to_dict()}, work, run_log)
        folder = work / "member"
        _save(result, data, folder)
        return FittedMember(
            name,
            [extractor.name for extractor in extractors],
            folder=FlyteDirectory(str(folder / EXCEPT_TEST)),
            final=FlyteDirectory(str(folder / (EVERYTHING if result.final else EXCEPT_TEST))),
            scores=FlyteFile(str(folder / SCORES)),
            epochs=epochs,
            deck=deck,
            machine=hardware_info(),
            description=(inspect.getdoc(member) or "").partition("\n")[0],
            sha256=hash_folder(folder),
        )


def _save(result: FitResult, data: TrainingData, folder: Path) -> None:
    result.member.save(folder / EXCEPT_TEST)
    if result.final:
        result.final.save(folder / EVERYTHING)
    scores = pd.DataFrame(result.logits, columns=[str(k) for k in range(data.classes)])
    scores.insert(0, "row", data.rows[result.rows])
    scores.insert(1, "stopping", result.stopping)
    scores.to_parquet(folder / SCORES, index=False)


@stage(pods.SMALL, dynamic=True)
def train_members(
    shards: list[Shard], splits: Splits, catalogue: Catalogue, resolved: ResolvedConfig, run: Run
) -> Members:
    """Plan the extraction of features and the fits of the configured members; unchanged results come from the cache."""
    runs.join(run.run_id)  # what it plans may fail before it logs anything
    config = resolved.config
    assignments = read_assignments(splits, catalogue)
    photos = enough_photos(assignments.loc[assignments["has_photo"], "split"].to_numpy(np.int64))
    if not photos:
        log.warning("too few photos to train on: no member reads them")
    names = active_members(config, photos)
    extractors = {name: extractors_of(name, config) for name in names}
    distinct = list(dict.fromkeys(e for part in extractors.values() for e in part))
    _require_photo_disk(int(assignments["has_photo"].sum()), distinct, config)
    rows = [splits.sha256, catalogue.key]
    positions = assignments["shard"].unique().tolist()
    contents = [_content(shards[position], assignments, position) for position in positions]
    items = {"shard": [shards[position] for position in positions], "key": contents, "position": positions}
    stored, features = {}, {}
    for extractor in distinct:
        settings = extractor_settings(extractor, config, resolved.text, resolved.photo)
        if reads_training_rows(extractor, config):
            key = hash_json([settings, [shard.sha256 for shard in shards], splits.sha256])
            prepared = fit_extractor(name=extractor, shards=shards, splits=splits, key=key, config=config)
        else:
            prepared = prepare_extractor(name=extractor, key=settings, config=config)
        extract = extract_features_on_gpu if EXTRACTORS[extractor].network else extract_features
        stored[extractor] = prepared
        features[extractor] = map_items(extract, items, splits=splits, extractor=prepared)
    fitted = []
    for name in names:
        member = MEMBERS[name]
        fit = TASKS[member.pod](
            name=name,
            features=[features[e] for e in extractors[name]],
            extractors=[stored[e] for e in extractors[name]],
            splits=splits,
            catalogue=catalogue,
            key=hash_json([config.refit.value, member.settings(config).to_dict(), rows]),
            seed=config.seed if member.seeded else 0,
            config=config,
            run=run,
        )
        fitted.append(fit)
    return Members(fitted, list(stored.values()), list(features.values()))


def _require_photo_disk(photos: int, extractors: Iterable[str], config: TrainingConfig) -> None:
    """Raise CatalogueError in a pod if features of so many photos exceed the disk of a pod that reads them."""
    size = photos * photo_bytes(extractors, config.photo.image_size)
    remedy = "lower `sample` or photo.image_size in the configuration, or train no VGG16 (photo.fine_tune_epochs: 0)"
    disks = ["cpu_disk", "gpu_disk", "photo_disk"]  # of the pool, the evaluation and the fit
    require_pod_disk(size, "features of photos to train VGG16 on", disks, remedy)


def _content(shard: Shard, assignments: pd.DataFrame, position: int) -> str:
    """Hash the products of a shard that are assigned."""
    return hash_json([shard.sha256, assignments.loc[assignments["shard"] == position, "row"].tolist()])
