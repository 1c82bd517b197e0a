"""Stage 1: read and check a catalogue. Writes shards of products with photos, and the quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data import read_catalogue
from rakuten_tasks.data.fingerprint import listing
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.registry import runs
from rakuten_tasks.registry.run_log import RunLog
from rakuten_tasks.reports.catalogue_deck import ingest_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.disk import require_free_disk, require_pod_disk
from rakuten_tasks.runtime.files import workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.start_run import stat_source
from rakuten_tasks.tasks.types import Catalogue, KeyedCatalogue, KeyedShard, KeyedSource, Run, Shard, Source


class IngestOutputs(NamedTuple):
    catalogue: KeyedCatalogue
    labelled: list[KeyedShard]
    unlabelled: list[KeyedShard]


@stage(pods.CPU, cached=True, deck=True)
def ingest(source: Source, config: IngestConfig, run: Run) -> IngestOutputs:
    """Read the catalogue with its unlabelled products, and log to a run of its own."""
    with runs.child_run(run.run_id, "ingest") as log:
        result = _ingest(source, config, labelled=True, log=log)
        log.artifact(Path(result.catalogue.summary.path))
        log.artifact(Path(result.catalogue.quarantine.path))
    return result


class Ingestion(NamedTuple):
    source: KeyedSource
    config: IngestConfig


@stage(pods.SMALL)
def prepare_ingestion(source: str, config: IngestConfig) -> Ingestion:
    """Fingerprint the catalogue: an unchanged one is not read again.

    Returns the config too, with its keys in the order of its class: the cached `ingest_without_run` would be computed
    again for another order, which Flyte gives to a field of a dataclass and a user to an input.
    """
    return Ingestion(stat_source(source), config)


@stage(pods.CPU, cached=True, deck=True)
def ingest_without_run(source: Source, config: IngestConfig, labelled: bool) -> IngestOutputs:
    """Read the catalogue outside of a training. labelled: False to read the unlabelled products alone."""
    return _ingest(source, config, labelled, log=None)


def _ingest(source: Source, config: IngestConfig, labelled: bool, log: RunLog | None) -> IngestOutputs:
    work = workspace()
    content = f"copies of the tables and photos of {source.address}"  # a retry would meet the same disk
    require_pod_disk(source.size, content, ["cpu_disk"])
    require_free_disk(source.size, content, work)
    folder = source.address
    if folder == SAMPLE:
        folder = str(work / SAMPLE)
        write_sample(Path(folder))
    summary = read_catalogue.ingest(folder, work / "catalogue", config, labelled=labelled)
    if listing(source.address) != source.listing:
        raise CatalogueError(f"{source.address} changed while it was read: run again when it is complete")
    return IngestOutputs(
        Catalogue(
            content_hash=summary.content_hash,
            codes=sorted(summary.class_counts),
            names={str(code): name for code, name in summary.names.items()},
            synthetic=summary.synthetic,
            quarantine=FlyteFile(str(summary.quarantine)),
            summary=FlyteFile(str(summary.file)),
            deck=show_deck("ingest", "Catalogue", ingest_deck(summary), log),
        ),
        [_shard(shard, work) for shard in summary.labelled],
        [_shard(shard, work) for shard in summary.unlabelled],
    )


def _shard(shard: read_catalogue.Shard, work: Path) -> Shard:
    return Shard(_file(shard.text, work), _file(shard.photos, work), shard.rows, shard.sha256)


def _file(file: Path | str, work: Path) -> FlyteFile:
    """Return a file of `work`, which Flyte uploads, or else one of a published catalogue, which stays where it is."""
    return FlyteFile(str(file), remote_path=None if isinstance(file, Path) and file.is_relative_to(work) else False)
