"""Train a model from a catalogue and register it.

pyflyte run workflows/training.py train_classifier --source FOLDER --config configs/default.yaml
"""

from __future__ import annotations

from typing import NamedTuple

from flytekit import LaunchPlan, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, PoolConfig, SampleConfig, SplitConfig, TrainingConfig
from rakuten_tasks.tasks.assemble_bundle import assemble
from rakuten_tasks.tasks.assign_splits import split
from rakuten_tasks.tasks.evaluate_test_rows import evaluate_test
from rakuten_tasks.tasks.fit_baselines import score_baselines
from rakuten_tasks.tasks.fit_pool_weights import pool_members
from rakuten_tasks.tasks.ingest_catalogue import ingest
from rakuten_tasks.tasks.on_failure import record_failed_reproduction, record_failed_training
from rakuten_tasks.tasks.register_version import register
from rakuten_tasks.tasks.reproduce import Comparison, OriginalRun, compare, reopen
from rakuten_tasks.tasks.start_run import RunContext, open_run
from rakuten_tasks.tasks.train_members import train_members
from rakuten_tasks.tasks.types import Catalogue, EvaluationFiles, RegisteredVersion, ResolvedConfig, Run, Shard, Source
from rakuten_tasks.tasks.write_report import report_training


class Trained(NamedTuple):
    bundle: FlyteDirectory
    catalogue: Catalogue
    labelled: list[Shard]
    evaluated: EvaluationFiles


@workflow
def train_bundle(
    run: Run,
    source: Source,
    title_splits: FlyteFile,
    resolved: ResolvedConfig,
    ingest_config: IngestConfig,
    split_config: SplitConfig,
    sample_config: SampleConfig,
    pool_config: PoolConfig,
    seed: int,
) -> Trained:
    """Train every member, fit the pool and evaluate both on the test rows. -> a bundle, not yet registered

    Args:
        run: the training's run in MLflow.
        source: the catalogue.
        title_splits: permanent splits of the titles of earlier trainings.
        resolved: the configuration and its pretrained weights.
        ingest_config: settings of `ingest`.
        split_config: shares of the splits.
        sample_config: rows of each split that are used at most.
        pool_config: whether the pool decides in stages.
        seed: seed of every random number.
    """
    catalogue, labelled, _ = ingest(source=source, config=ingest_config, run=run)
    splits = split(shards=labelled, previous_splits=title_splits, config=split_config, sample=sample_config, run=run)
    members, extractors, features = train_members(
        shards=labelled, splits=splits, catalogue=catalogue, resolved=resolved, run=run
    )
    pooled = pool_members(
        shards=labelled,
        splits=splits,
        catalogue=catalogue,
        members=members,
        extractors=extractors,
        features=features,
        config=pool_config,
        run=run,
    )
    baselines = score_baselines(shards=labelled, splits=splits, catalogue=catalogue, seed=seed, run=run)
    evaluated = evaluate_test(
        shards=labelled,
        splits=splits,
        catalogue=catalogue,
        members=members,
        extractors=extractors,
        features=features,
        pooled=pooled,
        baselines=baselines,
        seed=seed,
        run=run,
    )
    bundle = assemble(
        catalogue=catalogue,
        splits=splits,
        members=members,
        extractors=extractors,
        pooled=pooled,
        evaluated=evaluated,
        resolved=resolved,
        run=run,
    )
    return Trained(bundle, catalogue, labelled, evaluated)


def _train(context: RunContext | OriginalRun) -> Trained:
    """Add `train_bundle` with the outputs of `open_run` or `reopen` to the workflow that is being built."""
    return train_bundle(
        run=context.run,
        source=context.source,
        title_splits=context.title_splits,
        resolved=context.resolved,
        ingest_config=context.ingest,
        split_config=context.split,
        sample_config=context.sample,
        pool_config=context.pool,
        seed=context.seed,
    )


@workflow(on_failure=record_failed_training)
def train_classifier(
    source: str = "sample", config: TrainingConfig = TrainingConfig(), model: str = "", report: str = ""
) -> RegisteredVersion:
    """Train every member, fit the pool, evaluate and register the model.

    Args:
        source: folder of the catalogue in the challenge's layout, local or remote; "sample" for the built-in one.
        config: YAML or JSON of rakuten_tasks/config.py's TrainingConfig; missing keys keep their defaults.
        model: name of the registered model; empty for rakuten-classifier (rakuten-classifier-sample for the sample).
        report: path or fsspec address of the JSON report; empty for none.
    """
    context = open_run(source=source, model=model, config=config, report=report)
    bundle, catalogue, labelled, evaluated = _train(context)
    registered = register(folder=bundle, shards=labelled, config=config.gate, seed=context.seed, run=context.run)
    return report_training(
        source=context.source, catalogue=catalogue, evaluated=evaluated, registered=registered, report=report
    )


@workflow(on_failure=record_failed_reproduction)
def reproduce_version(version: int, model: str = "", source: str = "", report: str = "") -> Comparison:
    """Train a registered version again, from the catalogue and configuration of its lineage, and compare.

    Args:
        version: number of the registered version.
        model: name of the registered model; empty for the one that has a champion.
        source: new address of its catalogue if it was moved; empty for the one in its lineage.
        report: path or fsspec address of the JSON comparison; empty for none.
    """
    context = reopen(version=version, model=model, source=source)
    bundle, _, _, _ = _train(context)
    return compare(version=version, original=context.original, again=bundle, run=context.run, report=report)


# The plan by which Flyte starts the workflow unless another is named: what comes from the cache reproduces nothing
LaunchPlan.get_or_create(reproduce_version, name=reproduce_version.name, overwrite_cache=True)
