"""Publication of a catalogue: stage the next version, validate it, write its files, commit its manifest."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import fsspec
import pandas as pd
from botocore.exceptions import ClientError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.ingested import IngestResult
from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.schema import SHARD, CatalogueError
from rakuten_tasks.data.versions.manifest import (
    FORMAT,
    PARTS,
    CatalogueVersion,
    Manifest,
    StoredShard,
    content_name,
    find_version,
    manifest_path,
)
from rakuten_tasks.data.versions.staging import StagedVersion, list_products, stage_version, validate_staged

log = logging.getLogger(__name__)

ATTEMPTS = 10  # publishers at once, at the least, that all come through
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


@dataclass(frozen=True)
class SourceInfo:
    """Where the rows come from, and the codes of its rows to predict where they are known."""

    source: str
    answers: pd.Series | None


@dataclass(frozen=True)
class PublishResult:
    """The current version after a publication. new: whether this one made it; if not, it would have held the same."""

    published: CatalogueVersion
    new: bool
    joined: int  # labelled products of the source that were kept
    left_out: Mapping[str, int]  # rows of the source that were not kept, by reason


def publish(
    ingested: IngestResult, origin: SourceInfo, destination: str, config: PublicationConfig, add: bool, work: Path
) -> PublishResult:
    """Make the next version of the catalogue at `destination`, or none where it would hold what the current one holds.

    add: the current version's products stay, and those of the source join them; else the source's stand alone.
    work: a local folder. Raises CatalogueError as validate_staged does, and then nothing is published.
    """
    destination = destination.rstrip("/")
    _require_place(destination)
    read = list_products(ingested)
    for attempt in range(ATTEMPTS):
        before = find_version(destination)
        draft = stage_version(ingested, read, before, config, add, work / str(attempt))
        validate_staged(draft, before, config)
        if before and draft.content(_test_labels(draft, origin, before)) == before.manifest.content:
            return PublishResult(before, False, 0, draft.left_out)
        manifest = _write_files(draft, origin, before, destination)
        if _commit_manifest(destination, manifest):
            made = find_version(manifest_path(destination, manifest.version))
            assert made is not None  # it was found by its name
            return PublishResult(made, True, draft.read["labelled"].kept, draft.left_out)
        log.info("version %d was published by another meanwhile: joining that one", manifest.version)
    raise OSError(f"{destination}: others published {ATTEMPTS} versions meanwhile; run again")


def _require_place(destination: str) -> None:
    if not destination or destination.endswith(".json"):
        raise CatalogueError(
            f"destination={destination!r}: name a folder or fsspec address for the published catalogue"
        )
    filesystem, root = fsspec.url_to_fs(destination)
    if isinstance(filesystem, LocalFileSystem):
        nearest = next(place for place in (Path(root), *Path(root).parents) if place.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise CatalogueError(f"destination={destination!r}: {nearest} is no folder that can be written to")
    try:
        found = find_layout(destination)
    except FileNotFoundError:
        return
    raise CatalogueError(
        f"{destination} holds a catalogue in the challenge's layout ({found.train_rows or found.test_rows}): "
        "publish to another folder"
    )


def _test_labels(draft: StagedVersion, origin: SourceInfo, before: CatalogueVersion | None) -> pd.Series | None:
    """Of the rows to predict, which are the source's or the version before's."""
    return before.answers() if before and draft.keeps_unlabelled else origin.answers


def _write_files(
    draft: StagedVersion, origin: SourceInfo, before: CatalogueVersion | None, destination: str
) -> Manifest:
    """Put what the draft holds below files/. Without its manifest it is nothing yet. -> the manifest"""
    filesystem, root = fsspec.url_to_fs(destination)
    answers = _test_labels(draft, origin, before)

    def table(kind: str, rows: pd.DataFrame) -> str:
        buffer = BytesIO()
        rows.to_parquet(buffer, index=False)
        return _put_if_absent(filesystem, root, kind, "parquet", buffer.getvalue())

    shards = {
        part: [
            _require_exists(filesystem, root, shard)
            if isinstance(shard, StoredShard)
            else StoredShard(
                _put_if_absent(filesystem, root, "shard", "parquet", shard.path.read_bytes()), shard.rows, shard.sha256
            )
            for shard in draft.shards[part]
        ]
        for part in PARTS
    }
    return Manifest(
        format=FORMAT,
        version=before.manifest.version + 1 if before else 1,
        content=draft.content(answers),
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        source=origin.source,
        added_to=before.manifest.version if before and draft.adds else 0,
        columns={field.name: str(field.type) for field in SHARD},
        labelled=shards["labelled"],
        unlabelled=shards["unlabelled"],
        class_counts={str(code): n for code, n in draft.class_counts.items()},
        photos=draft.tally("photo_status"),
        issues=draft.tally("issue"),
        names={str(code): name for code, name in draft.names.items()},
        synthetic=draft.synthetic,
        products=table("products", draft.products),
        splits=table("splits", draft.splits.table()),
        answers=""
        if answers is None
        else _put_if_absent(filesystem, root, "answers", "csv", answers.to_csv().encode()),
        read=draft.read,
        quarantine=table("quarantine", draft.quarantine),
    )


def _require_exists(filesystem: AbstractFileSystem, root: str, shard: StoredShard) -> StoredShard:
    """A shard of the version before, or the next one would be broken from birth."""
    if not filesystem.exists(f"{root}/files/{shard.file}"):
        raise CatalogueError(
            f"files/{shard.file} of the current version is gone: put it back from a copy, or publish the whole "
            "catalogue with MODE=replace"
        )
    return shard


def _put_if_absent(filesystem: AbstractFileSystem, root: str, kind: str, ending: str, content: bytes) -> str:
    """Write a file once, whole. -> its name"""
    name = content_name(kind, ending, content)
    path = f"{root}/files/{name}"
    filesystem.makedirs(f"{root}/files", exist_ok=True)
    if isinstance(filesystem, LocalFileSystem):
        unfinished = f"{path}.{uuid.uuid4().hex}"
        Path(unfinished).write_bytes(content)
        Path(unfinished).replace(path)
    # in an object store a file is there when it is whole; its name tells what is in it
    elif not filesystem.exists(path):
        filesystem.pipe_file(path, content)
    return name


def _commit_manifest(destination: str, manifest: Manifest) -> bool:
    """Write the manifest unless another publisher has taken its number: the one step that makes a version."""
    filesystem, root = fsspec.url_to_fs(destination)
    path = manifest_path(root, manifest.version)
    content = json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False).encode()
    filesystem.makedirs(f"{root}/versions", exist_ok=True)
    try:
        if isinstance(filesystem, LocalFileSystem):
            _link(path, content)
        else:
            filesystem.pipe_file(path, content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] in TAKEN:
            return False
        raise
    return True


def _link(path: str, content: bytes) -> None:
    """Whole at once, and never over another. Raises FileExistsError."""
    unfinished = Path(f"{path}.{uuid.uuid4().hex}")
    try:
        unfinished.write_bytes(content)
        os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
