"""Reproduction: compare a registered version with the same training, repeated from its lineage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from flytekit.types.directory import FlyteDirectory
from rich.console import Console
from rich.table import Column, Table

from rakuten_tasks.config import IngestConfig, PoolConfig, SampleConfig, SplitConfig
from rakuten_tasks.evaluation.metrics import POOL, Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import execution
from rakuten_tasks.runtime.files import local
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import write_file
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.start_run import absolute_source, load_previous_splits, resolve, stat_source
from rakuten_tasks.tasks.types import KeyedFile, KeyedSource, ResolvedConfig, Run

ORIGINS = "catalogue, code, libraries, pretrained weights and machine"


class OriginalRun(NamedTuple):
    run: Run
    source: KeyedSource
    title_splits: KeyedFile  # the version's own, so that every title keeps its split
    resolved: ResolvedConfig
    ingest: IngestConfig
    split: SplitConfig
    sample: SampleConfig
    pool: PoolConfig
    seed: int
    original: FlyteDirectory


@dataclass(frozen=True)
class Comparison:
    """Result of training a version again. differences: possible causes of other weights."""

    model: str
    version: int
    same_weights: bool  # bit for bit, extractors and pool included
    same_predictions: float  # share of the test rows with the same predicted class
    f1_then: float
    f1_now: float
    differences: list[str]


@stage(pods.SMALL)
def reopen(version: int, model: str, source: str) -> OriginalRun:
    """Open a run for the reproduction, and read the lineage and configuration of the version.

    source: new address of its catalogue; empty if it was not moved.
    """
    client = tracking.connect()
    name = model or versions.resolve_model(client, model, synthetic=False)[0]
    original = versions.fetch(client, name, str(version))
    manifest = bundle.read_manifest(original)
    source = absolute_source(source or manifest.lineage.catalogue)
    tags = {"source": source, runs.REPRODUCES: f"{name} version {version}"}
    title = f"reproduction of {name} version {version}"
    run_id = runs.start_parent(title, manifest.config.to_dict(), tags, execution())
    return OriginalRun(
        Run(run_id, name, source),
        stat_source(source),
        load_previous_splits(name, version),
        resolve(manifest.config),
        manifest.config.ingest,
        manifest.config.split,
        manifest.config.sample,
        manifest.config.pool,
        manifest.config.seed,
        FlyteDirectory(str(original)),
    )


@stage(pods.SMALL)
def compare(version: int, original: FlyteDirectory, again: FlyteDirectory, run: Run, report: str) -> Comparison:
    """Print the comparison and write it as JSON to `report` unless that is empty.

    Raises ValueError if a test row is predicted differently.
    """
    comparison = compare_versions(run.model, version, local(original), local(again))
    runs.log_to_parent(run.run_id).dictionary(asdict(comparison), "comparison.json")
    Console(markup=False, emoji=False).print(_table(comparison))
    if report:
        write_file(report, json.dumps(asdict(comparison), indent=1))
    if comparison.same_predictions < 1:
        because = "; ".join(comparison.differences) or f"{ORIGINS} are the same, so this is a bug"
        other = f"{1 - comparison.same_predictions:.1%} of the test rows are predicted differently"
        raise ValueError(f"{comparison.model} version {version} was not reproduced: {other}: {because}")
    runs.finish_parent(run.run_id)
    return comparison


def compare_versions(model: str, version: int, original: Path, again: Path) -> Comparison:
    """Compare the folders of two bundles: the registered one, and the one of the repeated training."""
    then, now = (bundle.read_manifest(folder) for folder in (original, again))
    predictions = [pd.read_parquet(folder / bundle.TEST).set_index("row")["predicted"] for folder in (original, again)]
    same = predictions[0].reindex(predictions[0].index.union(predictions[1].index)).eq(predictions[1])
    f1 = [Evaluation.load(folder / bundle.EVALUATION).systems[POOL].weighted_f1.value for folder in (original, again)]
    weights = [_hashes(folder, manifest) for folder, manifest in ((original, then), (again, now))]
    origins = {
        "catalogue": (then.lineage.catalogue_hash, now.lineage.catalogue_hash),
        "code commit": (then.lineage.git_commit, now.lineage.git_commit),
        "code or libraries": (then.lineage.code, now.lineage.code),
        "pretrained weights": (_pretrained(then), _pretrained(now)),
        "machine": (then.lineage.machine, now.lineage.machine),
    }
    return Comparison(
        model=model,
        version=version,
        same_weights=weights[0] == weights[1] and then.pool == now.pool,
        same_predictions=float(same.mean()),
        f1_then=f1[0],
        f1_now=f1[1],
        differences=[
            f"{name}: {old or 'unknown'} then, {new} now" for name, (old, new) in origins.items() if old != new
        ],
    )


def _hashes(folder: Path, manifest: bundle.Manifest) -> dict[str, str]:
    """SHA-256 of each member's files, and of each extractor's."""
    extractors = dict.fromkeys(name for read in manifest.members.values() for name in read)
    parts = [f"{bundle.MEMBERS_FOLDER}/{name}" for name in manifest.members]
    parts += [f"{bundle.EXTRACTORS_FOLDER}/{name}" for name in extractors]
    return {part: hash_folder(folder / part) for part in parts}


def _pretrained(manifest: bundle.Manifest) -> str:
    return ", ".join(f"{weights.name} {weights.sha256}" for weights in manifest.lineage.pretrained) or "none"


def _table(comparison: Comparison) -> Table:
    title = f"{comparison.model} version {comparison.version}, trained again"
    table = Table("", Column(overflow="fold"), title=title, show_header=False)
    table.add_row("members, extractors, pool", "same, bit for bit" if comparison.same_weights else "differ")
    table.add_row("test rows predicted alike", f"{comparison.same_predictions:.1%}")
    table.add_row("weighted F1 then and now", f"{comparison.f1_then:.4f}, {comparison.f1_now:.4f}")
    table.add_row("changed since then", "\n".join(comparison.differences) or f"nothing: {ORIGINS}")
    return table
