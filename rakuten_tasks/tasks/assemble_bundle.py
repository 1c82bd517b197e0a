"""Stage 9: assemble the bundle. Its pod imports no torch: it copies files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd
from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.evaluation.metrics import Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.models.model_card import model_card
from rakuten_tasks.models.pool import Pool
from rakuten_tasks.registry import runs, tracking
from rakuten_tasks.registry.run_log import RunLog
from rakuten_tasks.reports.index import DECKS
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.types import (
    Catalogue,
    EvaluationFiles,
    FittedMember,
    FittedPool,
    ResolvedConfig,
    Run,
    Splits,
    StoredExtractor,
)

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
    """Write the bundle's folder, and log to the training's run what it was made from."""
    folder = workspace() / "bundle"
    for stored in extractors:
        _copy(stored, folder / bundle.EXTRACTORS_FOLDER / stored.name)
    for member in members:
        shutil.copytree(local(member.final), folder / bundle.MEMBERS_FOLDER / member.name)
    for name, file in {
        bundle.TITLE_SPLITS: splits.titles,
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
    evaluation = Evaluation.load(folder / bundle.EVALUATION)
    card = model_card(manifest, evaluation, {member.name: member.description for member in members}, splits.rows)
    (folder / bundle.CARD).write_text(card, encoding="utf-8")
    manifest.write(folder)
    log = runs.log_to_parent(run.run_id)
    log.metrics(evaluation.summary())
    _log_origin(log, catalogue, [catalogue, splits, *members, pooled, evaluated], resolved.config)
    return FlyteDirectory(str(folder))


def _copy(stored: StoredExtractor, target: Path) -> None:
    source = local(stored.folder)
    if hash_folder(source) != stored.sha256:
        raise ValueError(
            f"the files of {stored.name} were changed after they were made: `make clean`, then train again"
        )
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*stored.training_only))


def _log_origin(log: RunLog, catalogue: Catalogue, shown: Sequence[_Shown], config: TrainingConfig) -> None:
    """Log Decks and catalogue to the parent run, also those of cached tasks, which logged to an earlier run."""
    for stage_shown in shown:
        log.artifact(local(stage_shown.deck), DECKS)
    log.artifact(local(catalogue.quarantine))
    log.artifact(local(catalogue.summary))
    log.dictionary(config.to_dict(), CONFIGURATION)


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
