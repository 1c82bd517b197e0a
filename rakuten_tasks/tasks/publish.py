"""Last stage of the ETL: publish the ingested catalogue as the next version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flytekit.types.file import FlyteFile
from fsspec import AbstractFileSystem
from rich.console import Console

from rakuten_tasks.config import Mode, PublicationConfig
from rakuten_tasks.data.assignments import count_shared_photos
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.layout import find_test_labels
from rakuten_tasks.data.sample.generate import SAMPLE, sample_answers
from rakuten_tasks.data.shards import iter_text
from rakuten_tasks.data.versions.commit import PublishResult, SourceInfo, publish
from rakuten_tasks.data.versions.manifest import CatalogueVersion
from rakuten_tasks.reports.publication_deck import publication_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.pod_env import require_remote
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.addresses import absolute, open_address
from rakuten_tasks.tasks.types import Catalogue, Shard, Source

MAX_PHOTOS = 200_000  # that are compared: 16 bytes each and their table


@dataclass(frozen=True)
class Publication:
    """The current version of a published catalogue. new: whether this publication wrote it."""

    address: str  # of this version; immutable
    version: int
    new: bool
    labelled: int
    unlabelled: int
    joined: int
    left_out: dict[str, int]
    deck: FlyteFile


@stage(pods.CPU, deck=True)
def publish_version(
    source: Source,
    catalogue: Catalogue,
    labelled: list[Shard],
    unlabelled: list[Shard],
    destination: str,
    config: PublicationConfig,
    mode: Mode,
) -> Publication:
    """Check the catalogue, and publish it if it is valid and changed."""
    work = workspace()
    address = absolute(require_remote("destination", destination)) if destination else ""
    origin = SourceInfo(source.address, _find_answers(source.address, work))
    outcome = publish(_load_ingested(catalogue, labelled, unlabelled), origin, address, config, mode is Mode.ADD, work)
    shared_photos = describe_shared_photos(outcome.published)
    Console(soft_wrap=True, markup=False, emoji=False).print(describe_result(outcome) + shared_photos)
    manifest = outcome.published.manifest
    return Publication(
        address=outcome.published.address,
        version=manifest.version,
        new=outcome.new,
        labelled=manifest.rows("labelled"),
        unlabelled=manifest.rows("unlabelled"),
        joined=outcome.joined,
        left_out=dict(outcome.left_out),
        deck=show_deck("publication", "Published catalogue", publication_deck(outcome)),
    )


def _find_answers(source: str, work: Path) -> tuple[AbstractFileSystem, str] | None:
    if source != SAMPLE:
        return find_test_labels(source, work)
    file = work / "Y_test.csv"
    sample_answers().rename("prdtypecode").to_csv(file)
    return open_address(str(file))


def _load_ingested(catalogue: Catalogue, labelled: list[Shard], unlabelled: list[Shard]) -> IngestResult:
    """Load the result of an earlier task."""
    summary = local(catalogue.summary)
    content = json.loads(summary.read_text(encoding="utf-8"))
    return IngestResult(
        labelled=[shard.located() for shard in labelled],
        unlabelled=[shard.located() for shard in unlabelled],
        counts={part: Counts(**counts) for part, counts in content["counts"].items()},
        class_counts={int(code): n for code, n in content["class_counts"].items()},
        names={int(code): name for code, name in catalogue.names.items()},
        synthetic=catalogue.synthetic,
        content_hash=catalogue.content_hash,
        quarantine=local(catalogue.quarantine),
        file=summary,
    )


def describe_shared_photos(published: CatalogueVersion) -> str:
    """Describe in one line the photo files that the labelled products share across splits; empty for none.

    Of more than MAX_PHOTOS products, so many photos are compared, chosen by hash.
    """
    title_splits = published.title_splits()
    chosen = min(1.0, MAX_PHOTOS / published.manifest.rows("labelled"))
    photos, splits = [], []
    for rows in iter_text([shard.text for shard in published.shards("labelled")], ["title_hash", "photo_hash"]):
        rows = rows[rows["photo_hash"].notna()]
        rows = rows[rows["photo_hash"].to_numpy(np.uint64) / 2**64 <= chosen]
        photos.append(rows["photo_hash"].to_numpy(np.uint64))
        splits.append(title_splits.lookup(rows["title_hash"].to_numpy(np.uint64)))
    shared, counts = count_shared_photos(np.concatenate(photos).tolist(), np.concatenate(splits))
    if not shared:
        return ""
    return (
        f"\n{sum(counts)} products of held-out splits have the photo file of a training product, under another title "
        f"({shared} photos){'' if chosen == 1 else f', among {chosen:.1%} of the photos'}"
    )


def describe_result(outcome: PublishResult) -> str:
    """Describe the result in one or two lines."""
    manifest = outcome.published.manifest
    rows = f"{manifest.rows('labelled')} labelled products in {len(manifest.class_counts)} classes"
    left_out = ", ".join(f"{n} {reason}" for reason, n in outcome.left_out.items())
    reasons = f"; left out: {left_out}" if left_out else ""
    if not outcome.new:
        unchanged = f"nothing new: version {manifest.version} has the same products ({rows}){reasons}"
        return f"{unchanged}\n{outcome.published.address}"
    added = f", {outcome.joined} of them added to version {manifest.added_to}," if manifest.added_to else ""
    to_predict = f" and {manifest.rows('unlabelled')} to predict"
    return f"published version {manifest.version}: {rows}{added}{to_predict}{reasons}\n{outcome.published.address}"
