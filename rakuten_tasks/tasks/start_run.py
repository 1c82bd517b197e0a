"""Stage 0: open the MLflow run, identify the catalogue, load previous splits, resolve the configuration."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import fsspec
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, SplitConfig, TrainingConfig
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.layout import is_synthetic
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.models.backbones import resolve_weights
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.models.encoders import resolve_encoder
from rakuten_tasks.models.members.plan import active_members
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import execution
from rakuten_tasks.runtime.files import workspace
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.types import KeyedFile, KeyedSource, ResolvedConfig, Run, Source

log = logging.getLogger(__name__)


class RunContext(NamedTuple):
    run: Run
    source: KeyedSource
    known: KeyedFile  # titles whose split is settled, by the model's latest version or the published catalogue
    resolved: ResolvedConfig
    ingest: IngestConfig  # parts by themselves: those that a workflow takes out of a dataclass have no settled bytes
    split: SplitConfig
    seed: int


@stage(pods.SMALL)
def open_run(source: str, model: str, config: TrainingConfig, report: str) -> RunContext:
    """Open the parent run in MLflow, settle which registered model it works for, see what the catalogue holds.

    Encoder and weights are settled here too: what cannot be had is told before anything is read.
    """
    source = absolute(source)
    tags = {"source": source}
    # first, so that whatever is wrong has a run to be told in
    run_id = runs.start_parent(model or versions.DEFAULT_MODEL, config.to_dict(), tags, execution())
    resolved = resolve(config)
    if report:
        _require_writable(report)  # told before, not after, an alias has moved
    synthetic = source == SAMPLE or is_synthetic(source)
    name = model or (versions.SAMPLE_MODEL if synthetic else versions.DEFAULT_MODEL)
    runs.rename(run_id, name, {"synthetic": str(synthetic)})
    found = stat_source(source)
    # drift asks whether there is anything new to learn
    runs.rename(run_id, name, {"source": found.address, runs.FINGERPRINT: found.content})
    runs.log_pretrained(run_id, pretrained_weights(resolved))
    known = load_previous_splits(name, source=found.address)
    return RunContext(
        Run(run_id, name, found.address), found, known, resolved, config.ingest, config.split, config.seed
    )


def resolve(config: TrainingConfig) -> ResolvedConfig:
    """The configuration with its weights settled: `auto` becomes what there is. Raises what the resolvers raise."""
    config = from_anywhere(config)
    encoded = {"encoder", "bag_encoder", "transformer"} & set(config.members) and config.text.encoder != "none"
    text = photo = None
    if encoded:
        resolved_text, text = resolve_encoder(config.text)
        config = replace(config, text=resolved_text)
    if {"photo", "vgg16"} & set(config.members):
        settled, photo = resolve_weights(config.photo)
        config = replace(config, photo=settled)
    active_members(config)
    return ResolvedConfig(config, text, photo)


def pretrained_weights(resolved: ResolvedConfig) -> list[PretrainedWeights]:
    """Of text and photo, those that there are."""
    return [weights for weights in (resolved.text, resolved.photo) if weights is not None]


def absolute(source: str) -> str:
    """The catalogue's address: a local folder's, wherever one stands."""
    return source if source == SAMPLE or "://" in source else str(Path(source).expanduser().resolve())


def from_anywhere(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the whole paths of a local weights_file and encoder, as a version keeps them."""
    photo, text = config.photo, config.text
    if photo.weights_file:
        photo = replace(photo, weights_file=absolute(photo.weights_file))
    kind, _, name = text.encoder.partition(":")
    if kind == "hf" and Path(name).expanduser().is_dir():
        text = replace(text, encoder=f"hf:{absolute(name)}")
    return replace(config, photo=photo, text=text)


def _require_writable(report: str) -> None:
    filesystem, path = fsspec.url_to_fs(require_remote("report", report))
    folder = filesystem._parent(path)
    probe_name = f".probe-{uuid.uuid4().hex[:8]}"  # of this training alone
    for probe in (f"{folder}/{probe_name}", f"{folder}/decks/{probe_name}"):
        filesystem.makedirs(filesystem._parent(probe), exist_ok=True)
        filesystem.touch(probe)
        filesystem.rm(probe)


def stat_source(source: str) -> Source:
    """The catalogue's address and what it holds now.

    Of a published catalogue it is the address of the version that is current now, whatever is published later.
    """
    source = absolute(source)
    published = find_version(source) if source != SAMPLE else None
    source = published.address if published else source
    found = fingerprint(source)
    return Source(source, found.content, found.listing)


def load_previous_splits(model: str, version: int | None = None, source: str = SAMPLE) -> FlyteFile:
    """The splits of a version's titles, by default the model's latest, and then those of a published source.

    Where they differ the model's is right: what it was trained on must never become its test.
    """
    client = tracking.connect()
    splits = TitleSplits.empty()
    if version := version or versions.latest_version(client, model):
        splits = TitleSplits.load(versions.fetch(client, model, str(version)) / TITLE_SPLITS)
    path = workspace() / TITLE_SPLITS
    if source != SAMPLE and (published := find_version(source)) is not None:
        path.write_bytes(published.read(published.manifest.splits))
        published_splits = TitleSplits.load(path)
        if differing := splits.differing(published_splits):
            log.warning(
                "%d titles of %s are on another split in %s, which was trained first: they stay there",
                differing, source, model,
            )  # fmt: skip
        splits = splits.merged(published_splits)
    splits.save(path)
    return FlyteFile(str(path))
