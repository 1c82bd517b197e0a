"""Result of an ingest: shards, counts and summary."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rakuten_tasks.data.shards import Shard


@dataclass(frozen=True)
class Counts:
    """Rows of one part. kept + quarantined = read."""

    read: int
    kept: int
    quarantined: int
    reasons: dict[str, int]  # of the quarantined rows
    photos: dict[str, int]  # photo_status of the kept rows
    issues: dict[str, int]  # of the kept rows, unlabelled only


@dataclass(frozen=True)
class IngestResult:
    """What was read of a catalogue, and where it lies."""

    labelled: list[Shard]
    unlabelled: list[Shard]
    counts: dict[str, Counts]  # by part, "labelled" and "unlabelled"
    class_counts: dict[int, int]  # kept rows by prdtypecode, ascending
    names: dict[int, str]  # prdtypecode -> name for people; empty without classes.csv
    synthetic: bool
    content_hash: str  # changes with any kept byte, and with nothing else
    quarantine: Path  # Parquet (schema.QUARANTINE): each row that was not kept, with its reason
    file: Path  # JSON: all of this

    def write_summary(self) -> None:
        """Write `file`."""
        summary = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=lambda path: path.name)
        self.file.write_text(summary, encoding="utf-8")
