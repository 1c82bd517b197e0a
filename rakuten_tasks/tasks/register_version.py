"""Stage 9: one bundle, one registered version; the alias champion moves only if the gate passes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from mlflow import MlflowClient
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig, Refit, TrainingConfig
from rakuten_tasks.data.splits import TEST, Ledger
from rakuten_tasks.evaluation.metrics import Evaluation, paired_differences
from rakuten_tasks.local_files import hash_folder
from rakuten_tasks.models import bundle
from rakuten_tasks.models.extractors import EXTRACTORS
from rakuten_tasks.models.model_card import model_card
from rakuten_tasks.models.pool import Pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.models.scoring import products_of, rows_on
from rakuten_tasks.registry import promotion, runs, tracking, versions
from rakuten_tasks.registry.gate import GateDecision, class_losses, decide
from rakuten_tasks.registry.tracking import RunLog
from rakuten_tasks.reports.registration_deck import registration_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import code_version, stage
from rakuten_tasks.tasks.types import (
    Catalogue,
    EvaluationFiles,
    FittedMember,
    FittedPool,
    RegisteredVersion,
    ResolvedConfig,
    Run,
    Shard,
    Splits,
    StoredExtractor,
)

CHECKED = 64  # test rows that a bundle is asked about again before it is registered
DECKS = "decks"
CONFIGURATION = "configuration.json"


class _Shown(Protocol):
    @property
    def deck(self) -> FlyteFile: ...


@stage(pods.CPU)
def assemble(
    catalogue: Catalogue,
    splits: Splits,
    members: list[FittedMember],
    extractors: list[StoredExtractor],
    pooled: FittedPool,
    evaluated: EvaluationFiles,
    resolved: ResolvedConfig,
    run: Run,
) -> FlyteDirectory:
    """Everything that a prediction needs, and what it was made of, in one folder; what it was made from, in the run."""
    folder = workspace() / "bundle"
    for stored in extractors:
        _copy(stored, folder / bundle.EXTRACTORS_FOLDER / stored.name)
    for member in members:
        shutil.copytree(local(member.final), folder / bundle.MEMBERS_FOLDER / member.name)
    for name, file in {
        bundle.LEDGER: splits.ledger,
        bundle.TEST: evaluated.predictions,
        bundle.EVALUATION: evaluated.evaluation,
    }.items():
        shutil.copy(local(file), folder / name)
    parts = [pd.read_parquet(local(part.reference)) for part in (pooled, evaluated)]
    pd.concat(parts, ignore_index=True).to_parquet(folder / bundle.REFERENCE, index=False)
    manifest = bundle.Manifest(
        codes=catalogue.codes,
        names=catalogue.names,
        members={member.name: member.extractors for member in members},
        pool=Pool.from_json(local(pooled.pool).read_text()),
        config=resolved.config,
        lineage=_lineage(catalogue, run, members, resolved),
    )
    (folder / bundle.CARD).write_text(model_card(manifest, Evaluation.load(folder / bundle.EVALUATION)))
    manifest.write(folder)
    log = runs.log_to_parent(run.run_id)
    log.metrics(Evaluation.load(folder / bundle.EVALUATION).summary())
    _record(log, catalogue, [catalogue, *members, pooled, evaluated], resolved.config)
    return FlyteDirectory(str(folder))


def _copy(stored: StoredExtractor, target: Path) -> None:
    source = local(stored.folder)
    if hash_folder(source) != stored.sha256:
        raise ValueError(
            f"the files of {stored.name} were changed after they were made: `make clean`, then train again"
        )
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*EXTRACTORS[stored.name].training_only))


def _record(log: RunLog, catalogue: Catalogue, shown: Sequence[_Shown], config: TrainingConfig) -> None:
    """Into the parent run, also what was computed for an earlier run and taken from Flyte's cache."""
    for stage_shown in shown:
        log.artifact(local(stage_shown.deck), DECKS)
    log.artifact(local(catalogue.quarantine))
    log.artifact(local(catalogue.summary))
    log.dictionary(config.to_dict(), CONFIGURATION)


def _notes(manifest: bundle.Manifest) -> dict[str, str]:
    """What one should know of a version before its figures are believed, for its tags, page and `make versions`."""
    notes = {weights.tag: f"WARNING: {weights.warning}" for weights in manifest.lineage.pretrained if weights.warning}
    if manifest.config.refit is Refit.EVERYTHING:
        notes["refit"] = "its figures are of the same members before they were fitted on the test rows too"
    return notes


def _tags(manifest: bundle.Manifest) -> dict[str, object]:
    """What a version says of its origin: each value is a fact, or the address of a file of its run."""
    lineage = manifest.lineage
    artifacts = f"runs:/{lineage.run_id}"
    facts = {name: value for name, value in lineage.to_dict().items() if name != "pretrained"}
    return {
        **facts,
        **{
            f"pretrained.{item.tag}": f"{item.name}, source {item.source}, licence {item.licence}, sha256 {item.sha256}"
            for item in lineage.pretrained
        },
        **{f"{versions.NOTE}{name}": text for name, text in _notes(manifest).items()},
        "run": artifacts,
        "decks": f"{artifacts}/{DECKS}",
        "configuration": f"{artifacts}/{CONFIGURATION}",
        "quarantine": f"{artifacts}/quarantine.parquet",
    }


@stage(pods.GPU, deck=True)
def register(folder: FlyteDirectory, shards: list[Shard], config: GateConfig, seed: int, run: Run) -> RegisteredVersion:
    """Register the bundle and let the gate decide whether it becomes the champion."""
    path = local(folder)
    client = tracking.connect()
    with runs.child_run(run.run_id, "register") as log, tracking.registry_lock():
        version = versions.register(client, run.model, path, run.run_id, _tags(bundle.read_manifest(path)))
        paths = [local(shard.products) for shard in shards]
        # A retry must not judge the version against itself.
        stands = promotion.existing_decision(client, run.model, version)
        if stands is None:
            promotion.reset(client, run.model, version)
        while True:
            rivals = _rivals(client, run.model)
            judged = (
                GateInput(stands, {}, {}) if stands else _judge(client, path, paths, config, seed, run.model, *rivals)
            )
            deck = _shown(log, run, version, judged, config, bundle.read_manifest(path))
            # of a registry on a server another training may have moved the champion in between
            if stands or rivals == _rivals(client, run.model):
                break
        # last: of a registration that fails no alias has moved
        alias = promotion.finalize(client, run.model, version, judged.verdict)
    return RegisteredVersion(run.model, version, alias, judged.verdict.reason, run.run_id, deck)


@dataclass(frozen=True)
class GateInput:
    """The gate's verdict and the figures that its page draws; see reports/registration_deck.py."""

    verdict: GateDecision
    differences: dict[str, NDArray]
    losses: dict[int, float]


def _rivals(client: MlflowClient, model: str) -> tuple[int | None, int | None]:
    return versions.champion_version(client, model), versions.best_version(client, model)


def _shown(
    log: RunLog, run: Run, version: int, judged: GateInput, config: GateConfig, manifest: bundle.Manifest
) -> FlyteFile:
    log.dictionary(judged.verdict.to_dict(), "verdict.json")
    alias = promotion.alias_for(judged.verdict)
    page = registration_deck(
        run.model,
        version,
        alias,
        judged.verdict,
        judged.differences,
        config,
        judged.losses,
        manifest.names,
        list(_notes(manifest).values()),
        manifest.lineage.pretrained,
    )
    deck = show_deck("register", "Registration", page, log)
    runs.log_to_parent(run.run_id).artifact(local(deck), DECKS)
    return deck


def _judge(
    client: MlflowClient,
    path: Path,
    shards: list[Path],
    config: GateConfig,
    seed: int,
    model: str,
    incumbent: int | None,
    best: int | None,
) -> GateInput:
    manifest = bundle.read_manifest(path)
    test = pd.read_parquet(path / bundle.TEST)
    labels, new = (test[name].to_numpy(np.int64) for name in ("prdtypecode", "predicted"))
    _require_same_answers(path, shards, test)
    # Both have kept their hands off these rows: the ledger, handed from version to version, holds them back for ever.
    rivals = {version: versions.fetch(client, model, str(version)) for version in (incumbent, best) if version}
    ledger = Ledger.load(path / bundle.LEDGER)
    same = {v: r for v, r in rivals.items() if bundle.read_manifest(r).codes == manifest.codes}
    predicted: dict[int | None, NDArray] = {v: _predict_test(r, shards, ledger) for v, r in same.items()}
    verdict = decide(
        labels=labels,
        predicted_new=new,
        predicted_incumbent=predicted.get(incumbent),
        predicted_best=predicted.get(best),
        codes_new=manifest.codes,
        codes_incumbent=bundle.read_manifest(rivals[incumbent]).codes if incumbent else None,
        config=config,
        seed=seed,
    )
    named = {"champion": incumbent, "best champion so far": best if best != incumbent else None}
    return GateInput(
        verdict,
        {
            f"{name}, version {number}": paired_differences(labels, new, predicted[number], seed)
            for name, number in named.items()
            if number in predicted
        },
        class_losses(labels, new, predicted[incumbent], config.min_class_rows) if incumbent in predicted else {},
    )


def _require_same_answers(path: Path, shards: list[Path], test: pd.DataFrame) -> None:
    """The bundle as it will be served, asked about some test rows: a version that cannot answer is no rival.

    Raises ValueError if it answers otherwise than it was evaluated. One in twenty may differ: another processor rounds
    otherwise. Of members that were fitted on the test rows too only that they answer is asked.
    """
    rows = next(rows_on(shards, Ledger.load(path / bundle.LEDGER), (TEST,), skip_empty=True)).head(CHECKED)
    predictor = Predictor.load(path)
    said = predictor.score(products_of(rows)).predicted
    if predictor.manifest.config.refit is Refit.EVERYTHING:
        return
    agree = np.mean(said == test.set_index("row")["predicted"].loc[rows["row"]].to_numpy())
    if agree < 0.95:
        raise ValueError(f"the bundle answers {1 - agree:.0%} of {len(rows)} test rows otherwise than it was evaluated")


def _predict_test(rival: Path, shards: list[Path], ledger: Ledger) -> NDArray:
    predictor = Predictor.load(rival)
    parts = [predictor.score(products_of(rows)).predicted for rows in rows_on(shards, ledger, (TEST,))]
    return np.concatenate(parts)


def _lineage(
    catalogue: Catalogue, run: Run, members: Sequence[FittedMember], resolved: ResolvedConfig
) -> bundle.Lineage:
    return bundle.Lineage(
        catalogue=run.source,
        catalogue_hash=catalogue.content_hash,
        synthetic=catalogue.synthetic,
        git_commit=tracking.git_commit(),
        image=os.environ.get("FLYTE_INTERNAL_IMAGE", "none: run locally"),
        execution=current_context().execution_id.name,
        run_id=run.run_id,
        machine="; ".join(sorted({member.machine for member in members})),
        code=code_version(),
        pretrained=resolved.pretrained,
    )
