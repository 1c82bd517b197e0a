"""Stage 8: the test side, once: branches, fusion and the baseline side by side."""

from __future__ import annotations

import json

import pandas as pd
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Branch, Catalogue, Evaluated, Fused, KeyedFile, Run, Shard, local, workspace
from rakuten_tasks.catalogue.ingest import read_shard
from rakuten_tasks.catalogue.ledger import TEST, TRAIN, Ledger
from rakuten_tasks.classifier import bundle, plots
from rakuten_tasks.classifier.arrays import class_index
from rakuten_tasks.classifier.baseline import fit_baseline
from rakuten_tasks.classifier.branches import load_branches
from rakuten_tasks.classifier.evaluation import evaluate
from rakuten_tasks.classifier.fusion import Fusion
from rakuten_tasks.classifier.predictor import fuse_logits
from rakuten_tasks.classifier.scoring import score_sides
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.console import show
from rakuten_tasks.decks.evaluation import evaluation_deck, reliability_before
from rakuten_tasks.decks.mistakes import most_confident_mistakes, surest_mistakes, with_photos
from rakuten_tasks.registry import runs
from rakuten_tasks.stage import stage


@stage(pods.CPU, cached=True)
def score_baseline(shards: list[Shard], ledger: FlyteFile, catalogue: Catalogue, seed: int, run: Run) -> KeyedFile:
    """TF-IDF + linear classifier, trained on the training side: its probabilities of the test rows. Parquet."""
    with runs.child_run(run.run_id, "score_baseline"):
        columns = ["row", "designation", "description", "prdtypecode"]
        rows = pd.concat([read_shard(local(s.products), columns) for s in shards], ignore_index=True)
        side = Ledger.load(local(ledger)).sides(rows["designation"])
        train, test = rows[side == TRAIN], rows[side == TEST]
        labels = class_index(train["prdtypecode"], catalogue.codes)
        baseline = fit_baseline(
            train["designation"].tolist(), train["description"].tolist(), labels, len(catalogue.codes), seed
        )
        probabilities = baseline.probabilities(test["designation"].tolist(), test["description"].tolist())
    path = workspace() / "baseline.parquet"
    scores = pd.DataFrame(probabilities, columns=[str(code) for code in catalogue.codes])
    scores.assign(row=test["row"].to_numpy()).to_parquet(path, index=False)
    return FlyteFile(str(path))


@stage(pods.GPU, cached=True, deck=True)
def evaluate_test(
    shards: list[Shard],
    ledger: FlyteFile,
    catalogue: Catalogue,
    text: Branch,
    photo: Branch,
    fused: Fused,
    baseline: FlyteFile,
    seed: int,
    run: Run,
) -> Evaluated:
    """Score the test rows from raw text and photo bytes, by the code that serves."""
    work = workspace()
    with runs.child_run(run.run_id, "evaluate_test") as log:
        branches = load_branches({"text": local(text.folder), "photo": local(photo.folder)}, choose_device())
        paths = [local(shard.products) for shard in shards]
        test = score_sides(paths, Ledger.load(local(ledger)), (TEST,), branches, catalogue.codes)
        fusion = Fusion.from_json(local(fused.fusion).read_text())
        scores = fuse_logits(test.logits, fusion, catalogue.codes)
        by_row = pd.read_parquet(local(baseline)).set_index("row").loc[test.rows["row"]].to_numpy()
        systems = {**scores.by_branch, "fused": scores.probabilities, "baseline": by_row}
        evaluation = evaluate(systems, test.labels, catalogue.codes, seed)
        for name, system in evaluation.systems.items():
            log.metrics({f"{name}_{metric}": getattr(system, metric).value for metric in evaluation.METRICS})
        for figure_name, figure in plots.evaluation_figures(evaluation, catalogue.names).items():
            log.figure(figure, figure_name)
        at = surest_mistakes(scores, test.labels)
        mistakes = most_confident_mistakes(with_photos(test.rows, at, paths), scores, test.labels)
        before = reliability_before(test.logits, fusion, test.labels)
        deck = show("evaluate", "Evaluation", evaluation_deck(evaluation, catalogue.names, before, mistakes), log)
    (work / bundle.EVALUATION).write_text(json.dumps(evaluation.to_dict()))
    test.rows.assign(predicted=scores.predicted, confidence=scores.confidence).to_parquet(work / bundle.TEST)
    return Evaluated(FlyteFile(str(work / bundle.EVALUATION)), FlyteFile(str(work / bundle.TEST)), deck)
