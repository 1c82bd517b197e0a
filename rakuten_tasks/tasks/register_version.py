"""Stage 10: register the bundle as a version; the alias champion moves only if the gate passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig, Refit
from rakuten_tasks.data import shards as data_shards
from rakuten_tasks.evaluation.bootstrap import paired_differences
from rakuten_tasks.models import bundle
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.models.scoring import products_of, read_assigned
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.registry.gate import GateDecision, class_losses, decide
from rakuten_tasks.registry.promotion import Promotion, Rivals, alias_for
from rakuten_tasks.registry.run_log import RunLog
from rakuten_tasks.reports.index import DECKS
from rakuten_tasks.reports.registration_deck import registration_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.assemble_bundle import CONFIGURATION
from rakuten_tasks.tasks.types import RegisteredVersion, Run, Shard

CHECKED = 64  # test rows that a bundle predicts again before it is registered


def _notes(manifest: bundle.Manifest) -> dict[str, str]:
    """Return warnings about a version's figures, for its tags, page and `make versions`."""
    notes = {weights.tag: f"WARNING: {weights.warning}" for weights in manifest.lineage.pretrained if weights.warning}
    if manifest.config.refit is Refit.EVERYTHING:
        notes["refit"] = "its figures are of the same members before they were fitted on the test rows too"
    return notes


def _tags(manifest: bundle.Manifest) -> dict[str, object]:
    """Return the tags of a version: its lineage, and addresses of files of its run."""
    lineage = manifest.lineage
    artifacts = f"runs:/{lineage.run_id}"
    return {
        **{name: value for name, value in lineage.to_dict().items() if name != "pretrained"},
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
    stored = [shard.located() for shard in shards]
    client = tracking.connect()
    with runs.child_run(run.run_id, "register") as log, tracking.registry_lock():
        manifest = bundle.read_manifest(path)
        version = versions.register(client, run.model, path, run.run_id, _tags(manifest))
        promotion = Promotion(client, run.model, version)
        # A retry must not compare the version with itself
        earlier_decision = promotion.resume()
        while True:
            rivals = promotion.rivals()
            if earlier_decision:
                outcome = GateOutcome(earlier_decision, {}, {})
            else:
                folders = {number: versions.fetch(client, run.model, str(number)) for number in rivals if number}
                outcome = _decide(path, stored, rivals, folders, config, seed)
            deck = _show_outcome(log, run, version, outcome, config, manifest)
            # False if, in a registry on a server, another training has moved the champion meanwhile
            if promotion.begin(outcome.decision, rivals):
                break
        alias = promotion.commit()  # no step after it may fail the registration
    return RegisteredVersion(run.model, version, alias, outcome.decision.reason, run.run_id, deck)


@dataclass(frozen=True)
class GateOutcome:
    """The gate's decision and the figures that its page draws; see reports/registration_deck.py."""

    decision: GateDecision
    differences: dict[str, NDArray]
    losses: dict[int, float]


def _show_outcome(
    log: RunLog, run: Run, version: int, outcome: GateOutcome, config: GateConfig, manifest: bundle.Manifest
) -> FlyteFile:
    log.dictionary(outcome.decision.to_dict(), "gate_decision.json")
    page = registration_deck(
        run.model,
        version,
        alias_for(outcome.decision),
        outcome.decision,
        outcome.differences,
        config,
        outcome.losses,
        manifest.names,
        list(_notes(manifest).values()),
        manifest.lineage.pretrained,
    )
    deck = show_deck("register", "Registration", page, log)
    runs.log_to_parent(run.run_id).artifact(local(deck), DECKS)
    return deck


def _decide(
    path: Path, shards: list[data_shards.Shard], rivals: Rivals, folders: dict[int, Path], config: GateConfig, seed: int
) -> GateOutcome:
    """Score the new bundle's rivals on its test rows and compare. folders: the rivals' bundles, by version."""
    codes = bundle.read_manifest(path).codes
    test = pd.read_parquet(path / bundle.TEST)
    labels, new = (test[name].to_numpy(np.int64) for name in ("prdtypecode", "predicted"))
    _require_same_predictions(path, shards, test)
    # None was trained on these rows: a test title of one version is a test title of all later ones
    codes_of = {version: bundle.read_manifest(folder).codes for version, folder in folders.items()}
    comparable = [version for version in folders if codes_of[version] == codes]
    predicted: dict[int | None, NDArray] = {v: _predict_test(folders[v], shards, test) for v in comparable}
    decision = decide(
        labels=labels,
        predicted_new=new,
        predicted_incumbent=predicted.get(rivals.champion),
        predicted_best=predicted.get(rivals.best),
        codes_new=codes,
        codes_incumbent=codes_of[rivals.champion] if rivals.champion else None,
        config=config,
        seed=seed,
    )
    best = rivals.best if rivals.best != rivals.champion else None
    return GateOutcome(
        decision,
        {
            f"{name}, version {version}": paired_differences(labels, new, predicted[version], seed)
            for name, version in {"champion": rivals.champion, "best champion so far": best}.items()
            if version in predicted
        },
        class_losses(labels, new, predicted[rivals.champion], config.min_class_rows)
        if rivals.champion in predicted
        else {},
    )


def _require_same_predictions(path: Path, shards: list[data_shards.Shard], test: pd.DataFrame) -> None:
    """Load the bundle as it will be served and predict some test rows.

    Raises ValueError if its labels differ from those that were evaluated. One in twenty may differ, as another
    processor rounds differently. Members that were fitted on the test rows too only have to predict.
    """
    checked = test[test["shard"] == test["shard"].iloc[0]].head(CHECKED)
    rows = next(read_assigned(shards, checked))
    predictor = Predictor.load(path)
    predicted = predictor.score(products_of(rows)).predicted
    if predictor.manifest.config.refit is Refit.EVERYTHING:
        return
    agree = np.mean(predicted == test.set_index("row")["predicted"].loc[rows["row"]].to_numpy())
    if agree < 0.95:
        raise ValueError(f"the bundle answers {1 - agree:.0%} of {len(rows)} test rows otherwise than it was evaluated")


def _predict_test(folder: Path, shards: list[data_shards.Shard], test: pd.DataFrame) -> NDArray:
    predictor = Predictor.load(folder)
    return np.concatenate([predictor.score(products_of(rows)).predicted for rows in read_assigned(shards, test)])
