"""Publication of a catalogue: stage the next version, validate it, write its files, create its manifest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.ingested import IngestResult
from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.schema import TEXT, CatalogueError
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.data.versions.files import CatalogueFiles, manifest_path
from rakuten_tasks.data.versions.manifest import FORMAT, PARTS, CatalogueVersion, Manifest, StoredShard, find_version
from rakuten_tasks.data.versions.staging import StagedVersion, list_products, stage_version, validate_staged

log = logging.getLogger(__name__)

ATTEMPTS = 10  # so many publishers at once all succeed


@dataclass(frozen=True)
class SourceInfo:
    """Address of the catalogue that was read, and the codes of its unlabelled rows if they are known."""

    source: str
    answers: pd.Series | None


@dataclass(frozen=True)
class PublishResult:
    """The current version after a publication. new: False if the version before had the same content already."""

    published: CatalogueVersion
    new: bool
    joined: int  # labelled products of the source that were kept
    left_out: Mapping[str, int]  # rows of the source that were not kept, by reason


def publish(
    ingested: IngestResult, origin: SourceInfo, destination: str, config: PublicationConfig, add: bool, work: Path
) -> PublishResult:
    """Create the next version of the catalogue at `destination`, or none if its content would be the same.

    add: extend the current version by the source's products; else the version has the source's products only.
    work: a local folder. Raises CatalogueError as validate_staged does, and then nothing is published.
    """
    destination = destination.rstrip("/")
    _require_destination(destination)
    files = CatalogueFiles.at(destination)
    if origin.answers is not None and not ingested.unlabelled:
        raise CatalogueError(f"{origin.source} has labels of products to predict and no such products: add X_test")
    products = list_products(ingested)
    for attempt in range(ATTEMPTS):
        before = find_version(destination)
        staged = stage_version(ingested, origin.answers, products, before, config, add, work / str(attempt))
        validate_staged(staged, before, config)
        if before and staged.content == before.manifest.content:
            return PublishResult(before, False, 0, staged.left_out)
        manifest = _write_files(staged, origin.source, before.manifest.version + 1 if before else 1, files)
        text = json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False)
        if files.create_manifest(manifest.version, text.encode()):
            version = CatalogueVersion(files, manifest_path(destination, manifest.version), manifest)
            return PublishResult(version, True, staged.read["labelled"].kept, staged.left_out)
        log.info("version %d was published by another process meanwhile: extending that one", manifest.version)
    raise OSError(f"{destination}: others published {ATTEMPTS} versions meanwhile; run again")


def _require_destination(destination: str) -> None:
    if not destination or destination.endswith(".json"):
        raise CatalogueError(
            f"destination={destination!r}: name a folder or fsspec address for the published catalogue"
        )
    files = CatalogueFiles.at(destination)
    if isinstance(files.filesystem, LocalFileSystem):
        nearest = next(path for path in (Path(files.root), *Path(files.root).parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise CatalogueError(f"destination={destination!r}: {nearest} is no folder that can be written to")
    try:
        layout = find_layout(destination)
    except FileNotFoundError:
        return
    raise CatalogueError(
        f"{destination} holds a catalogue in the challenge's layout ({layout.train_rows or layout.test_rows}): "
        "publish to another folder"
    )


def _write_files(staged: StagedVersion, source: str, version: int, files: CatalogueFiles) -> Manifest:
    """Write the files of a version, which does not exist before its manifest does. Returns the manifest."""
    shards = {part: [_write_shard(shard, files) for shard in staged.shards[part]] for part in PARTS}
    answers = None if staged.answers is None else staged.answers.rename("prdtypecode")
    return Manifest(
        format=FORMAT,
        version=version,
        content=staged.content,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        added_to=staged.added_to,
        columns={field.name: str(field.type) for field in TEXT},
        labelled=shards["labelled"],
        unlabelled=shards["unlabelled"],
        class_counts={str(code): n for code, n in staged.class_counts.items()},
        photos=staged.tally("photo_status"),
        issues=staged.tally("issue"),
        names={str(code): name for code, name in staged.names.items()},
        synthetic=staged.synthetic,
        products=files.write_table("products", staged.products),
        splits=files.write_table("splits", staged.splits.table()),
        answers="" if answers is None else files.write("answers", "csv", answers.to_csv().encode()),
        read=staged.read,
        quarantine=files.write_table("quarantine", staged.quarantine),
    )


def _write_shard(shard: Shard | StoredShard, files: CatalogueFiles) -> StoredShard:
    """Write a new shard. Raises CatalogueError for a shard of the version before whose file is gone."""
    if isinstance(shard, Shard):
        text, photos = (
            files.write(kind, "parquet", Path(path).read_bytes())
            for kind, path in (("text", shard.text), ("photos", shard.photos))
        )
        return StoredShard(text, photos, shard.rows, shard.sha256)
    for name in (shard.text, shard.photos):
        if not files.exists(name):
            raise CatalogueError(
                f"files/{name} of the current version is gone: put it back from a copy, or publish the whole "
                "catalogue with MODE=replace"
            )
    return shard
