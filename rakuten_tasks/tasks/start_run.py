"""Stage 0: open the MLflow run, fingerprint the catalogue, load previous splits, resolve the configuration."""

from __future__ import annotations

import logging
import posixpath
import uuid
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, PoolConfig, SampleConfig, SplitConfig, TrainingConfig
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.layout import is_synthetic
from rakuten_tasks.data.sample.generate import SAMPLE
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.registry import runs, tracking, versions
from rakuten_tasks.registry.model_names import require_model_name
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.execution import execution
from rakuten_tasks.runtime.files import workspace
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import absolute, open_address, require_address
from rakuten_tasks.tasks.types import KeyedFile, KeyedSource, ResolvedConfig, Run, Source

log = logging.getLogger(__name__)


class RunContext(NamedTuple):
    run: Run
    source: KeyedSource
    title_splits: KeyedFile  # permanent splits: of the model's latest version and of the published catalogue
    resolved: ResolvedConfig
    ingest: IngestConfig  # outputs of their own: the bytes of a field that a workflow reads from a dataclass may vary
    split: SplitConfig
    sample: SampleConfig
    pool: PoolConfig
    seed: int


@stage(pods.SMALL)
def open_run(source: str, model: str, config: TrainingConfig, report: str) -> RunContext:
    """Open the parent run in MLflow, choose the registered model, fingerprint the catalogue, load previous splits.

    Raises before anything is read if there is no catalogue, if the report cannot be written, or if the encoder or the
    weights are not available.
    """
    source = absolute_source(source)
    if model:
        require_model_name(model)
    # first, so that every error has a run to be reported in
    run_id = runs.start_parent(model or versions.DEFAULT_MODEL, config.to_dict(), {"source": source}, execution())
    synthetic = source == SAMPLE or is_synthetic(source)
    if report:
        _require_writable(report)
    resolved = resolve(config)  # last, as it may download weights
    name = model or (versions.SAMPLE_MODEL if synthetic else versions.DEFAULT_MODEL)
    runs.rename(run_id, name, {"synthetic": str(synthetic)})
    catalogue = stat_source(source)
    # a drift check compares the fingerprints of two trainings' catalogues
    runs.rename(run_id, name, {"source": catalogue.address, runs.FINGERPRINT: catalogue.content})
    runs.log_pretrained(run_id, resolved.pretrained)
    title_splits = load_previous_splits(name, source=catalogue.address)
    run = Run(run_id, name, catalogue.address)
    parts = config.ingest, config.split, config.sample, config.pool
    return RunContext(run, catalogue, title_splits, resolved, *parts, config.seed)


def resolve(config: TrainingConfig) -> ResolvedConfig:
    """Replace `auto` by the weights that are available. Raises what resolve_encoder and resolve_weights raise."""
    # not at the top: they import torch and transformers, which no other function here needs
    from rakuten_tasks.models.backbones import resolve_weights
    from rakuten_tasks.models.encoders import resolve_encoder
    from rakuten_tasks.models.members.plan import active_members

    config = with_absolute_paths(config)
    needs_encoder = {"encoder", "bag_encoder", "transformer"} & set(config.members) and config.text.encoder != "none"
    text = photo = None
    if needs_encoder:
        text_config, text = resolve_encoder(config.text)
        config = replace(config, text=text_config)
    if {"photo", "vgg16"} & set(config.members):
        photo_config, photo = resolve_weights(config.photo)
        config = replace(config, photo=photo_config)
    active_members(config)
    return ResolvedConfig(config, text, photo)


def absolute_source(source: str) -> str:
    """Make the path of a local catalogue absolute; URLs and "sample" stay unchanged. Raises as require_address does."""
    require_address(source)
    return source if source == SAMPLE else absolute(source)


def with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """Make the paths of a local weights_file and encoder absolute, as a version stores them."""
    photo, text = config.photo, config.text
    if photo.weights_file:
        photo = replace(photo, weights_file=absolute(photo.weights_file))
    kind, _, name = text.encoder.partition(":")
    if kind == "hf" and Path(name).expanduser().is_dir():
        text = replace(text, encoder=f"hf:{absolute(name)}")
    return replace(config, photo=photo, text=text)


def _require_writable(report: str) -> None:
    """Create and delete a file in the folders of the report and of its pages."""
    filesystem, path = open_address(require_remote("report", report))
    name = f".probe-{uuid.uuid4().hex[:8]}"  # another training may be probing too
    for folder in (posixpath.dirname(path), f"{posixpath.dirname(path)}/decks"):
        filesystem.makedirs(folder, exist_ok=True)
        filesystem.touch(f"{folder}/{name}")
        filesystem.rm_file(f"{folder}/{name}")


def stat_source(source: str) -> Source:
    """Fingerprint the catalogue. Of a published catalogue, the address is that of its current, immutable version."""
    source = absolute_source(source)
    published = find_version(source) if source != SAMPLE else None
    address = published.address if published else source
    files = fingerprint(address)
    return Source(address, files.content, files.listing, files.size)


def load_previous_splits(model: str, version: int | None = None, source: str = SAMPLE) -> FlyteFile:
    """Load the title splits of a version (None: the model's latest), extended by those of a published source.

    Where they differ the model's wins: titles that it was trained on must never become test rows.
    """
    client = tracking.connect()
    splits = TitleSplits.empty()
    if version := version or versions.latest_version(client, model):
        folder = versions.fetch(client, model, str(version), workspace(), [TITLE_SPLITS])
        splits = TitleSplits.load(folder / TITLE_SPLITS)
    if source != SAMPLE and (published := find_version(source)) is not None:
        published_splits = published.title_splits()
        if differing := splits.differing(published_splits):
            log.warning(
                "%d titles of %s are on another split in %s, which was trained first: they stay there",
                differing, source, model,
            )  # fmt: skip
        splits = splits.merged(published_splits)
    path = workspace() / TITLE_SPLITS
    splits.save(path)
    return FlyteFile(str(path))
