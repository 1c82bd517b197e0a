"""Stage 7: fit the pool on scores of rows that the members were not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray

from rakuten_tasks.config import PoolConfig
from rakuten_tasks.data.splits import BLENDING, TEST, VALIDATION
from rakuten_tasks.models.bundle import REFERENCE
from rakuten_tasks.models.cascade import StageReport, learn_cascade
from rakuten_tasks.models.members import MEMBERS
from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from rakuten_tasks.models.pool_report import PoolReport, report_pool
from rakuten_tasks.models.predictor import pool_logits
from rakuten_tasks.models.scoring import read_assigned, score_features
from rakuten_tasks.models.staged_logits import apply_cascade
from rakuten_tasks.monitoring.columns import FITTED_COLUMNS
from rakuten_tasks.monitoring.reference import reference_rows
from rakuten_tasks.registry import runs
from rakuten_tasks.reports.pool_deck import pool_deck
from rakuten_tasks.reports.result_plots import pool_figures
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.assignments import read_assignments
from rakuten_tasks.tasks.train_members import load_members
from rakuten_tasks.tasks.types import (
    Catalogue,
    FeatureShard,
    FittedMember,
    FittedPool,
    KeyedPool,
    Run,
    Shard,
    Splits,
    StoredExtractor,
)

HELD_OUT = (VALIDATION, BLENDING)


@dataclass(frozen=True)
class HeldOutScores:
    """Logits of N labelled rows from members that were not trained on them; `available` marks who scored which.

    rows: (N,) row numbers of the catalogue. stopping: (N,) bool by member, whether the row was used for early stopping.
    """

    rows: NDArray
    labels: NDArray
    logits: Logits
    stopping: dict[str, NDArray]

    @property
    def to_fit(self) -> Logits:
        """Logits without each member's rows of early stopping."""
        masks = {name: mask & ~self.stopping[name] for name, mask in self.logits.available.items()}
        return Logits(self.logits.by_member, masks)


@stage(pods.FIT, cached=True, deck=True)
def pool_members(
    shards: list[Shard],
    splits: Splits,
    catalogue: Catalogue,
    members: list[FittedMember],
    extractors: list[StoredExtractor],
    features: list[list[FeatureShard]],
    config: PoolConfig,
    run: Run,
) -> KeyedPool:
    """Fit the pool on rows out of fold or held out, and compute the validation rows of the drift reference."""
    work = workspace()
    assignments = read_assignments(splits, catalogue)
    unseen = read_scores(members, assignments, len(catalogue.codes))
    counts = np.bincount(assignments.loc[assignments["split"] != TEST, "label"], minlength=len(catalogue.codes))
    prior = (counts + 1) / (counts + 1).sum()  # Laplace smoothing
    with runs.child_run(run.run_id, "pool_members") as log:
        pool, report = fit(unseen, prior, config)
        log.metrics(report.metrics(pool))
        for name, figure in pool_figures(report).items():
            log.figure(figure, name)
        (work / "pool.json").write_text(json.dumps(pool.to_dict()))
        reference = _reference(shards, members, extractors, features, assignments, unseen, pool, catalogue.codes)
        reference.to_parquet(work / REFERENCE, index=False)
        key = hash_folder(work)
        deck = show_deck("pool", "Pool", pool_deck(report), log)
    return FittedPool(FlyteFile(str(work / "pool.json")), FlyteFile(str(work / REFERENCE)), key, deck)


def fit(unseen: HeldOutScores, prior: NDArray, config: PoolConfig) -> tuple[Pool, PoolReport]:
    """Fit the pool's weights and the thresholds of its cascade. prior: (K,)"""
    logits = unseen.to_fit
    modality = {name: MEMBERS[name].modality for name in logits.by_member}
    pool, stages = fit_pool(logits, unseen.labels, modality, prior), list[StageReport]()
    if config.cascade:
        cheap = [name for name in modality if MEMBERS[name].cheap]
        pool, stages = learn_cascade(pool, logits, unseen.labels, cheap)
    return pool, report_pool(pool, logits, unseen.labels, stages)


def read_scores(members: Sequence[FittedMember], assignments: pd.DataFrame, classes: int) -> HeldOutScores:
    """Join the scores of all members. assignments: row and label of every labelled row."""
    scores = {member.name: pd.read_parquet(local(member.scores)).set_index("row") for member in members}
    rows = np.unique(np.concatenate([frame.index.to_numpy(np.int64) for frame in scores.values()]))
    by_member: dict[str, NDArray] = {}
    available: dict[str, NDArray] = {}
    stopping: dict[str, NDArray] = {}
    for name, frame in scores.items():
        frame = frame.reindex(rows)
        available[name] = frame["0"].notna().to_numpy()
        stopping[name] = frame.pop("stopping").eq(True).to_numpy(bool)
        by_member[name] = frame.fillna(0).to_numpy(np.float32)
        assert by_member[name].shape[1] == classes
    labels = assignments.set_index("row")["label"].loc[rows]
    return HeldOutScores(rows, labels.to_numpy(np.int64), Logits(by_member, available), stopping)


def _reference(
    shards: Sequence[Shard],
    members: Sequence[FittedMember],
    extractors: Sequence[StoredExtractor],
    features: Sequence[Sequence[FeatureShard]],
    assignments: pd.DataFrame,
    unseen: HeldOutScores,
    pool: Pool,
    codes: Sequence[int],
) -> pd.DataFrame:
    """Compute the drift columns of the validation rows, without FITTED_COLUMNS.

    Members scored these rows when fitted on fewer rows than the registered ones, and were less confident; the
    registered ones know all their words.
    """
    selected = assignments[assignments["split"].isin(HELD_OUT) & assignments["row"].isin(unseen.rows)]
    held_out = selected["row"].to_numpy(np.int64)
    logits = unseen.logits.take(np.searchsorted(unseen.rows, held_out))
    loaded = load_members(members)
    files = {e.name: [local(part.file) for part in parts] for e, parts in zip(extractors, features, strict=True)}
    _, embeddings = score_features(loaded, files, held_out, pool)
    logits, embeddings = apply_cascade(pool, loaded, logits, embeddings)
    scores = pool_logits(logits, pool, codes)
    products = read_assigned([shard.located() for shard in shards], selected)
    reference = reference_rows(products, tfidf_of(loaded), scores, embeddings)
    return reference.assign(**dict.fromkeys(FITTED_COLUMNS, np.nan))
