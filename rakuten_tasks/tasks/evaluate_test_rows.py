"""Stage 8: evaluate members, pool and baselines on the test rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray

from rakuten_tasks.data.splits import TEST
from rakuten_tasks.evaluation.metrics import FULL_POOL, POOL, evaluate
from rakuten_tasks.models import bundle
from rakuten_tasks.models.members.linear import tfidf_of
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Scores, pool_logits
from rakuten_tasks.models.scoring import read_assigned, score_features
from rakuten_tasks.models.staged_logits import apply_cascade
from rakuten_tasks.monitoring.reference import reference_rows
from rakuten_tasks.registry import runs
from rakuten_tasks.reports import result_plots
from rakuten_tasks.reports.evaluation_deck import evaluation_deck
from rakuten_tasks.reports.top_errors import describe_errors, top_errors, with_photos
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.assignments import read_assignments, read_texts
from rakuten_tasks.tasks.train_members import load_members
from rakuten_tasks.tasks.types import (
    Catalogue,
    EvaluationFiles,
    FeatureShard,
    FittedMember,
    FittedPool,
    Run,
    Shard,
    Splits,
    StoredExtractor,
)

COLUMNS = ["row", "productid", "designation", "description", "prdtypecode"]


@stage(pods.GPU, cached=True, deck=True)
def evaluate_test(
    shards: list[Shard],
    splits: Splits,
    catalogue: Catalogue,
    members: list[FittedMember],
    extractors: list[StoredExtractor],
    features: list[list[FeatureShard]],
    pooled: FittedPool,
    baselines: FlyteFile,
    seed: int,
    run: Run,
) -> EvaluationFiles:
    """Evaluate on the test rows, with members that were fitted on all other rows."""
    work = workspace()
    codes, pool = catalogue.codes, Pool.from_json(local(pooled.pool).read_text())
    assignments = read_assignments(splits, catalogue)
    test = assignments[assignments["split"] == TEST]
    with runs.child_run(run.run_id, "evaluate_test") as log:
        paths_of = {e.name: [local(s.file) for s in part] for e, part in zip(extractors, features, strict=True)}
        labels = test["label"].to_numpy(np.int64)
        loaded = load_members(members)
        logits, embeddings = score_features(loaded, paths_of, test["row"].to_numpy(np.int64), pool)
        served, embeddings = apply_cascade(pool, loaded, logits, embeddings)
        scores = pool_logits(served, pool, codes)
        systems = {**_systems(pool, logits, scores), **_read_baselines(local(baselines), test["row"])}
        skipped = photos_skipped(pool, logits, served)
        evaluation = evaluate(systems, labels, codes, seed, pool.text_only(logits), skipped)
        log.metrics(evaluation.summary())
        for figure_name, figure in result_plots.evaluation_figures(evaluation, catalogue.names).items():
            log.figure(figure, figure_name)
        worst = top_errors(scores, labels)
        rows = pd.concat(read_texts(shards, test, COLUMNS), ignore_index=True)
        stored = [shard.located() for shard in shards]
        with_errors = [stored[position] for position in test["shard"].iloc[worst].unique()]
        errors = describe_errors(with_photos(rows, worst, with_errors), scores, labels)
        deck = show_deck("evaluate", "Evaluation", evaluation_deck(evaluation, catalogue.names, errors), log)
    (work / bundle.EVALUATION).write_text(json.dumps(evaluation.to_dict()))
    scored = rows.assign(shard=test["shard"].to_numpy(), predicted=scores.predicted, confidence=scores.confidence)
    scored.to_parquet(work / bundle.TEST)
    products = read_assigned(stored, test)  # in the order of the assignments
    reference = reference_rows(products, tfidf_of(loaded), scores, embeddings)
    reference.to_parquet(work / bundle.REFERENCE, index=False)
    names = (bundle.EVALUATION, bundle.TEST, bundle.REFERENCE)
    evaluation_file, predictions, reference_file = (FlyteFile(str(work / name)) for name in names)
    return EvaluationFiles(evaluation_file, predictions, reference_file, deck)


def _systems(pool: Pool, logits: Logits, scores: Scores) -> dict[str, NDArray]:
    """Return the probabilities of each member alone and of the pool as it is served. logits: of all members."""
    complete = pool_logits(logits, pool, [int(code) for code in scores.codes])
    systems = {**complete.by_member, POOL: scores.probabilities}
    return {**systems, FULL_POOL: complete.probabilities} if pool.thresholds else systems


def photos_skipped(pool: Pool, logits: Logits, served: Logits) -> float:
    """Return the share of the photos that the cascade did not need; 0 without photos."""
    photos, needed = (int(pool.has(scored, "photo").sum()) for scored in (logits, served))
    return (photos - needed) / photos if photos else 0.0


def _read_baselines(path: Path, rows: pd.Series) -> dict[str, NDArray]:
    frame = pd.read_parquet(path).set_index("row")
    parts = {str(name): part.drop(columns=["baseline"]) for name, part in frame.groupby("baseline", sort=False)}
    return {name: part.loc[rows].to_numpy(np.float64) for name, part in parts.items()}
