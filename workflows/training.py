"""From a catalogue to a registered champion.

pyflyte run workflows/training.py train_classifier --source FOLDER --config configs/default.yaml
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from flytekit import map_task, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Catalogue, Evaluated, Registered, Run, Shard, Source
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.evaluation import evaluate_test, score_baseline
from rakuten_tasks.failure import record_failed_reproduction, record_failed_training
from rakuten_tasks.fusion import fuse
from rakuten_tasks.ingest import ingest
from rakuten_tasks.lstm import train_lstm
from rakuten_tasks.opening import open_run, stage_settings
from rakuten_tasks.photos import photo_features, prepare_photos
from rakuten_tasks.registration import assemble, register
from rakuten_tasks.report import report_training
from rakuten_tasks.reproduction import Comparison, compare, reopen
from rakuten_tasks.split import split
from rakuten_tasks.text import encode_text, fit_vocabulary
from rakuten_tasks.vgg16 import train_vgg16

each_shard = partial(map_task, concurrency=pods.CONCURRENCY)


class Trained(NamedTuple):
    bundle: FlyteDirectory
    catalogue: Catalogue
    labelled: list[Shard]
    evaluated: Evaluated


@workflow
def train_bundle(run: Run, source: Source, known: FlyteFile, config: TrainingConfig) -> Trained:
    """Train both branches, fuse them and evaluate once: a bundle, not yet registered.

    Args:
        run: the training's run in MLflow.
        source: the catalogue.
        known: ledger of titles whose side is settled.
        config: as for train_classifier.
    """
    encoding, side, frozen, tuned = stage_settings(config=config)
    catalogue, labelled, _ = ingest(source=source, config=config.ingest, run=run)
    ledger = split(shards=labelled, known=known, config=config.split, run=run)

    vocabulary = fit_vocabulary(shards=labelled, ledger=ledger, config=encoding, run=run)
    encode = partial(encode_text, vocabulary=vocabulary, ledger=ledger, catalogue=catalogue)
    texts = each_shard(encode)(shard=labelled)
    text = train_lstm(
        shards=texts, vocabulary=vocabulary, catalogue=catalogue, config=config.text, seed=config.seed, run=run
    )

    prepare = partial(prepare_photos, side=side, ledger=ledger, catalogue=catalogue)
    photos = each_shard(prepare)(shard=labelled)
    features = each_shard(partial(photo_features, config=frozen))(photos=photos)
    photo = train_vgg16(shards=features, catalogue=catalogue, config=tuned, seed=config.seed, run=run)

    fused = fuse(shards=labelled, ledger=ledger, catalogue=catalogue, text=text, photo=photo, run=run)
    baseline = score_baseline(shards=labelled, ledger=ledger, catalogue=catalogue, seed=config.seed, run=run)
    evaluated = evaluate_test(
        shards=labelled,
        ledger=ledger,
        catalogue=catalogue,
        text=text,
        photo=photo,
        fused=fused,
        baseline=baseline,
        seed=config.seed,
        run=run,
    )
    bundle = assemble(
        catalogue=catalogue,
        ledger=ledger,
        text=text,
        photo=photo,
        fused=fused,
        evaluated=evaluated,
        config=config,
        run=run,
    )
    return Trained(bundle, catalogue, labelled, evaluated)


@workflow(on_failure=record_failed_training)
def train_classifier(
    source: str = "sample", config: TrainingConfig = TrainingConfig(), model: str = "", report: str = ""
) -> Registered:
    """Train both branches, fuse them, evaluate once and register.

    Args:
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's TrainingConfig; what it leaves out keeps its default.
        model: name of the registered model; empty for rakuten-classifier (rakuten-classifier-sample for the sample).
        report: where to write the result as JSON, local or remote; empty for nowhere.
    """
    run, found, known = open_run(source=source, model=model, config=config, report=report)
    bundle, catalogue, labelled, evaluated = train_bundle(run=run, source=found, known=known, config=config)
    registered = register(folder=bundle, shards=labelled, config=config.gate, seed=config.seed, run=run)
    return report_training(source=found, catalogue=catalogue, evaluated=evaluated, registered=registered, report=report)


@workflow(on_failure=record_failed_reproduction)
def reproduce_version(version: int, model: str = "", source: str = "", report: str = "") -> Comparison:
    """Train a registered version again, from the catalogue and configuration that it names, and compare.

    Args:
        version: number of the registered version.
        model: name of the registered model; empty for the one that has a champion.
        source: where its catalogue lies, if it was moved; empty for where the version says.
        report: where to write the comparison as JSON, local or remote; empty for nowhere.
    """
    run, found, known, config, original = reopen(version=version, model=model, source=source)
    bundle, _, _, _ = train_bundle(run=run, source=found, known=known, config=config)
    return compare(version=version, original=original, again=bundle, run=run, report=report)
