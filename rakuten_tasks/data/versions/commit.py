"""Publication of a catalogue: stage the next version, validate it, write its files, create its manifest."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.ingested import IngestResult
from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.part_index import LabelIndex
from rakuten_tasks.data.schema import TEXT, CatalogueError
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.data.versions.files import CatalogueFiles, fetch_shard, manifest_path
from rakuten_tasks.data.versions.manifest import FORMAT, PARTS, CatalogueVersion, Manifest, StoredShard, find_version
from rakuten_tasks.data.versions.product_index import ProductIndex
from rakuten_tasks.data.versions.staging import StagedVersion, stage_version, validate_staged

log = logging.getLogger(__name__)

ATTEMPTS = 10  # so many publishers at once all succeed


@dataclass(frozen=True)
class SourceInfo:
    """Address of the catalogue that was read, and the CSV file with the codes of its unlabelled rows; None for none."""

    source: str
    answers: tuple[AbstractFileSystem, str] | None


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
    index = ProductIndex(ingested.labelled, work / "index")
    answers = LabelIndex(*origin.answers, work / "index") if origin.answers else None
    for attempt in range(ATTEMPTS):
        before = find_version(destination)
        staged = stage_version(ingested, answers, index, before, config, add, work / str(attempt))
        validate_staged(staged, before, config)
        if before and staged.content == before.manifest.content:
            return PublishResult(before, False, 0, staged.left_out)
        manifest = _write_files(staged, origin.source, before, files, work / str(attempt))
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


def _write_files(
    staged: StagedVersion, source: str, before: CatalogueVersion | None, files: CatalogueFiles, work: Path
) -> Manifest:
    """Write the files of a version, which does not exist before its manifest does. Returns the manifest."""
    stays = before.manifest if before and staged.added_to else None
    published = {shard.sha256: shard for part in PARTS for shard in (stays.shards(part) if stays else [])}
    shards = {
        part: [published.get(shard.sha256) or _write_shard(shard, files, work) for shard in staged.parts[part].shards]
        for part in PARTS
    }
    answers, splits = staged.answers, work / "splits.parquet"
    staged.splits.save(splits)
    return Manifest(
        format=FORMAT,
        version=before.manifest.version + 1 if before else 1,
        content=staged.content,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        added_to=staged.added_to,
        columns={field.name: str(field.type) for field in TEXT},
        labelled=shards["labelled"],
        unlabelled=shards["unlabelled"],
        class_counts={str(code): n for code, n in staged.class_counts.items()},
        photos={part: staged.parts[part].photos for part in PARTS},
        issues={part: staged.parts[part].issues for part in PARTS},
        names={str(code): name for code, name in staged.names.items()},
        synthetic=staged.synthetic,
        splits=files.write("splits", splits),
        answers=files.write("answers", answers.file) if answers.file else answers.name,
        read=staged.read,
        quarantine=files.write("quarantine", staged.quarantine),
    )


def _write_shard(shard: Shard, files: CatalogueFiles, work: Path) -> StoredShard:
    with TemporaryDirectory(dir=work) as folder:  # of a source in a store, the files of one shard at a time
        fetched = fetch_shard(shard, Path(folder))
        text, photos = Path(fetched.text), Path(fetched.photos)
        return StoredShard(
            text=files.write("text", text),
            photos=files.write("photos", photos),
            text_size=text.stat().st_size,
            photos_size=photos.stat().st_size,
            rows=shard.rows,
            sha256=shard.sha256,
        )
