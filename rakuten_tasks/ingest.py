"""Stage 1: a catalogue folder -> checked shards of products with their photos' bytes, and a quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flytekit import task
from flytekit.types.file import FlyteFile

from rakuten_tasks import pods
from rakuten_tasks.artifacts import Catalogue, Run, Shard, workspace
from rakuten_tasks.catalogue import ingest as catalogue
from rakuten_tasks.catalogue.sample import SAMPLE, write_sample
from rakuten_tasks.classifier.vgg16_weights import convolutions
from rakuten_tasks.config import IngestConfig, TrainingConfig, Weights
from rakuten_tasks.registry import champion, tracking


class Ingested(NamedTuple):
    catalogue: Catalogue
    labelled: list[Shard]
    unlabelled: list[Shard]


@task(**pods.SMALL)
def open_run(source: str, model: str, config: TrainingConfig) -> Run:
    """Open the parent run in MLflow, and settle which registered model this training works for."""
    if config.photo.weights is not Weights.RANDOM:
        convolutions(config.photo)  # weights that cannot be had are told before anything is read
    synthetic = source == SAMPLE or catalogue.is_synthetic(source)
    name = model or (champion.SAMPLE_MODEL if synthetic else champion.DEFAULT_MODEL)
    run_id = tracking.start_parent(name, config.to_dict(), {"source": source, "synthetic": str(synthetic)})
    return Run(run_id, name)


@task(**pods.CPU)
def ingest(source: str, config: IngestConfig, run: Run) -> Ingested:
    """Read the whole catalogue, products to predict included."""
    with tracking.child_run(run.run_id, "ingest") as log:
        result = _ingest(source, config, labelled=True)
        log.artifact(Path(result.catalogue.summary.path))
        log.artifact(Path(result.catalogue.quarantine.path))
    return result


@task(**pods.CPU)
def ingest_unlabelled(source: str, config: IngestConfig) -> Ingested:
    """Read only the products to predict: labels and training rows need not be there."""
    return _ingest(source, config, labelled=False)


def _ingest(source: str, config: IngestConfig, labelled: bool) -> Ingested:
    work = workspace()
    if source == SAMPLE:
        source = str(work / SAMPLE)
        write_sample(Path(source))
    summary = catalogue.ingest(source, work / "catalogue", config, labelled=labelled)
    return Ingested(
        Catalogue(
            source=source,
            content_hash=summary.content_hash,
            codes=sorted(summary.class_counts),
            names={str(code): name for code, name in summary.names.items()},
            synthetic=summary.synthetic,
            quarantine=FlyteFile(str(summary.quarantine)),
            summary=FlyteFile(str(summary.file)),
        ),
        [_shard(shard) for shard in summary.labelled],
        [_shard(shard) for shard in summary.unlabelled],
    )


def _shard(shard: catalogue.Shard) -> Shard:
    return Shard(FlyteFile(str(shard.path)), shard.rows, shard.sha256)
