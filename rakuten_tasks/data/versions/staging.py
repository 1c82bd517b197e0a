"""Staging of a published catalogue's next version: what it contains, what is left out, and whether it is valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.answers import write_labels
from rakuten_tasks.data.assignments import count_rows, read_titles, require_every_split
from rakuten_tasks.data.ingested import Counts, IngestResult
from rakuten_tasks.data.part_index import LabelIndex
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.shards import Shard
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.data.title_sketch import TitleChunks
from rakuten_tasks.data.versions.extension import Extension, extend
from rakuten_tasks.data.versions.files import content_name
from rakuten_tasks.data.versions.manifest import PARTS, CatalogueVersion
from rakuten_tasks.data.versions.product_index import ProductIndex
from rakuten_tasks.storage.local_files import hash_json

K = TypeVar("K", int, str)
LABELLED, UNLABELLED = PARTS


@dataclass(frozen=True)
class StagedPart:
    """Shards of a part, published and new ones, and its numbers of rows."""

    shards: list[Shard]
    photos: dict[str, int]  # by photo_status
    issues: dict[str, int]
    class_counts: dict[int, int]  # ascending; of labelled products

    @property
    def rows(self) -> int:
        """Number of products."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class StagedAnswers:
    """Codes of the unlabelled rows. name: of their published file, empty if they are not known.

    file: that file before it is published; None if the version before has it. mismatch: as of match_labels.
    """

    name: str
    file: Path | None = None
    mismatch: str = ""


@dataclass(frozen=True)
class StagedVersion:
    """Content of the next version before its files are written.

    read, quarantine: of the source; kept + quarantined = read. added_to: the version that this one extends, 0 for none.
    """

    parts: dict[str, StagedPart]
    splits: TitleSplits
    answers: StagedAnswers
    read: dict[str, Counts]
    quarantine: Path
    names: dict[int, str]
    synthetic: bool
    added_to: int

    @property
    def class_counts(self) -> dict[int, int]:
        """Labelled products by code, ascending."""
        return self.parts[LABELLED].class_counts

    @property
    def left_out(self) -> dict[str, int]:
        """Rows of the source that were left out, by reason."""
        return _add(*(counts.reasons for counts in self.read.values()))

    @property
    def content(self) -> str:
        """Hash of everything a reader gets."""
        shards = [[shard.sha256 for shard in self.parts[part].shards] for part in PARTS]
        return hash_json([shards, self.names, self.synthetic, self.answers.name])


def stage_version(
    ingested: IngestResult,
    answers: LabelIndex | None,
    index: ProductIndex,
    before: CatalogueVersion | None,
    config: PublicationConfig,
    add: bool,
    work: Path,
) -> StagedVersion:
    """Return the version after `before`. answers: labels of the unlabelled products, if they are known.

    index: of the source's labelled products. work: a local folder.

    add: keep the published products, add the source's new labelled ones, numbered from the last row on, and replace
    the unlabelled ones, if the source has any. The splits of the version before are extended and never changed.
    """
    work.mkdir(parents=True, exist_ok=True)
    base = before if add else None
    labelled, read, quarantine = _source_part(ingested, LABELLED), ingested.counts, ingested.quarantine
    if base:
        extension = extend(base.shards(LABELLED), ingested, index, config, work)
        labelled = _extended_part(base, extension)
        read, quarantine = {**read, LABELLED: extension.read}, extension.quarantine
    if base and not ingested.unlabelled:
        photos, issues = base.manifest.photos[UNLABELLED], base.manifest.issues[UNLABELLED]
        unlabelled = StagedPart(base.shards(UNLABELLED), photos, issues, {})
        staged_answers = StagedAnswers(base.manifest.answers)
    else:
        unlabelled = _source_part(ingested, UNLABELLED)
        staged_answers = _write_answers(answers, unlabelled, labelled.class_counts, work)
    names = {int(code): name for code, name in base.manifest.names.items()} if base else {}
    previous = before.title_splits() if before else TitleSplits.empty()
    return StagedVersion(
        parts={LABELLED: labelled, UNLABELLED: unlabelled},
        splits=previous.extended(_titles(labelled), config.split),
        answers=staged_answers,
        read=read,
        quarantine=quarantine,
        names={**names, **ingested.names},
        synthetic=ingested.synthetic,
        added_to=base.manifest.version if base else 0,
    )


def _source_part(ingested: IngestResult, part: str) -> StagedPart:
    shards, class_counts = (ingested.labelled, ingested.class_counts) if part == LABELLED else (ingested.unlabelled, {})
    counts = ingested.counts.get(part)
    return StagedPart(shards, counts.photos if counts else {}, counts.issues if counts else {}, class_counts)


def _extended_part(base: CatalogueVersion, extension: Extension) -> StagedPart:
    manifest = base.manifest
    class_counts = {int(code): n for code, n in manifest.class_counts.items()}
    return StagedPart(
        extension.shards,
        _add(manifest.photos[LABELLED], extension.read.photos),
        manifest.issues[LABELLED],
        _add(class_counts, extension.class_counts),
    )


def _add(*tallies: Mapping[K, int]) -> dict[K, int]:
    return dict(sorted(sum(map(Counter, tallies), Counter[K]()).items()))


def _write_answers(
    labels: LabelIndex | None, unlabelled: StagedPart, classes: Collection[int], work: Path
) -> StagedAnswers:
    if labels is None:
        return StagedAnswers("")
    file = work / "answers.csv"
    mismatch = write_labels(labels, [shard.text for shard in unlabelled.shards], classes, file)
    return StagedAnswers(content_name("answers", file), file, mismatch)


def _titles(part: StagedPart) -> TitleChunks:
    return read_titles([shard.text for shard in part.shards])


def validate_staged(staged: StagedVersion, before: CatalogueVersion | None, config: PublicationConfig) -> None:
    """Raise CatalogueError if nothing could be trained on the version, or it lost what the version before had."""
    labelled = staged.parts[LABELLED]
    if not labelled.rows:
        raise CatalogueError("nothing to publish: no labelled product was kept; see the quarantine's reasons")
    if staged.answers.mismatch:
        raise CatalogueError(
            "not published: the labels of the products to predict (Y_test.csv) do not match them: "
            f"{staged.answers.mismatch}: give each product one label, of a class that has labelled products, or take "
            "the file away"
        )
    if before:
        _require_no_loss(staged, before, config)
    try:
        require_every_split(count_rows(staged.splits, _titles(labelled)))
    except ValueError as error:
        raise CatalogueError(f"not published: {error}") from error


def _require_no_loss(staged: StagedVersion, before: CatalogueVersion, config: PublicationConfig) -> None:
    manifest, rows = before.manifest, staged.parts[LABELLED].rows
    version = f"version {manifest.version} of {before.files.root}"
    lost = sorted(set(map(int, manifest.class_counts)) - set(staged.class_counts))
    if lost and not config.may_lose_classes:
        raise CatalogueError(
            f"not published: class {', '.join(map(str, lost[:5]))} of {version} has no product any more "
            f"({len(lost)} lost): add to that version, or set may_lose_classes: true"
        )
    if rows < config.min_kept_share * manifest.rows(LABELLED):
        raise CatalogueError(
            f"not published: {rows} labelled products where {version} has {manifest.rows(LABELLED)}: complete the "
            f"source, add to that version, or lower min_kept_share = {config.min_kept_share}"
        )
    if staged.added_to and staged.synthetic != manifest.synthetic:
        raise CatalogueError(
            f"not published: {'made-up' if staged.synthetic else 'real'} products would join {version}, whose are not: "
            "publish them to another address"
        )
