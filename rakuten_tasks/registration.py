"""Stage 9: one bundle, one registered version; the alias champion moves only if the gate passes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from flytekit import current_context, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from mlflow import MlflowClient
from numpy.typing import NDArray

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Branch, Catalogue, Evaluated, Fused, Registered, Run, Shard, local, workspace
from rakuten_tasks.catalogue.ledger import TEST, Ledger
from rakuten_tasks.classifier import bundle
from rakuten_tasks.classifier.card import model_card
from rakuten_tasks.classifier.evaluation import Evaluation
from rakuten_tasks.classifier.fusion import Fusion
from rakuten_tasks.classifier.predictor import Predictor
from rakuten_tasks.classifier.scoring import products_of, rows_on
from rakuten_tasks.config import GateConfig, TrainingConfig
from rakuten_tasks.registry import champion, tracking
from rakuten_tasks.registry.gate import Verdict, decide


@task(**pods.CPU)
def assemble(
    catalogue: Catalogue,
    ledger: FlyteFile,
    text: Branch,
    photo: Branch,
    fused: Fused,
    evaluated: Evaluated,
    config: TrainingConfig,
    run: Run,
) -> FlyteDirectory:
    """Everything that a prediction needs, and what it was made of, in one folder."""
    folder = workspace() / "bundle"
    branches = {"text": text.folder, "photo": photo.folder}
    for name, branch in branches.items():
        shutil.copytree(local(branch), folder / name)
    for name, file in {
        bundle.LEDGER: ledger,
        bundle.REFERENCE: fused.reference,
        bundle.TEST: evaluated.predictions,
        bundle.EVALUATION: evaluated.evaluation,
    }.items():
        shutil.copy(local(file), folder / name)
    manifest = bundle.Manifest(
        codes=catalogue.codes,
        names=catalogue.names,
        branches=list(branches),
        fusion=Fusion.from_json(local(fused.fusion).read_text()),
        config=config,
        lineage=_lineage(catalogue, run),
    )
    (folder / bundle.CARD).write_text(model_card(manifest, Evaluation.load(folder / bundle.EVALUATION)))
    manifest.write(folder)
    return FlyteDirectory(str(folder))


@task(**pods.GPU)
def register(folder: FlyteDirectory, shards: list[Shard], config: GateConfig, seed: int, run: Run) -> Registered:
    """Register the bundle and let the gate decide whether it becomes the champion."""
    path = local(folder)
    client = tracking.connect()
    with tracking.child_run(run.run_id, "register") as log:
        lineage = bundle.read_manifest(path).lineage
        version = champion.register(client, run.model, path, run.run_id, lineage.to_dict())
        # A retry must not judge the version against itself.
        verdict = champion.settled(client, run.model, version) or _verdict(
            client, path, [local(shard.products) for shard in shards], config, seed, run.model
        )
        alias = champion.settle(client, run.model, version, verdict)
        log.dictionary(verdict.to_dict(), "verdict.json")
    tracking.finish_parent(run.run_id)
    return Registered(run.model, version, alias, verdict.reason, run.run_id)


def _verdict(
    client: MlflowClient, path: Path, shards: list[Path], config: GateConfig, seed: int, model: str
) -> Verdict:
    manifest = bundle.read_manifest(path)
    test = pd.read_parquet(path / bundle.TEST)
    incumbent = champion.champion_version(client, model)
    best = champion.best_version(client, model)
    # Both have kept their hands off these rows: the ledger, handed from version to version, holds them back for ever.
    rivals = {version: champion.fetch(client, model, str(version)) for version in {incumbent, best} - {None}}
    ledger = Ledger.load(path / bundle.LEDGER)
    same = {v: r for v, r in rivals.items() if bundle.read_manifest(r).codes == manifest.codes}
    predicted = {v: _predict_test(r, shards, ledger) for v, r in same.items()}
    return decide(
        labels=test["prdtypecode"].to_numpy(np.int64),
        predicted_new=test["predicted"].to_numpy(np.int64),
        predicted_incumbent=predicted.get(incumbent),
        predicted_best=predicted.get(best),
        codes_new=manifest.codes,
        codes_incumbent=bundle.read_manifest(rivals[incumbent]).codes if incumbent else None,
        config=config,
        seed=seed,
    )


def _predict_test(rival: Path, shards: list[Path], ledger: Ledger) -> NDArray:
    predictor = Predictor.load(rival)
    parts = [predictor.score(products_of(rows)).predicted for rows in rows_on(shards, ledger, (TEST,))]
    return np.concatenate(parts)


def _lineage(catalogue: Catalogue, run: Run) -> bundle.Lineage:
    return bundle.Lineage(
        catalogue=catalogue.source,
        catalogue_hash=catalogue.content_hash,
        synthetic=catalogue.synthetic,
        git_commit=tracking.git_commit(),
        image=os.environ.get("FLYTE_INTERNAL_IMAGE", "none: run locally"),
        execution=current_context().execution_id.name,
        run_id=run.run_id,
    )
