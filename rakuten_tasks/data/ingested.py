"""Result of an ingest: shards, counts and summary."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rakuten_tasks.data.shards import Shard


@dataclass(frozen=True)
class Counts:
    """Numbers of rows of one part. kept + quarantined = read."""

    read: int
    kept: int
    quarantined: int
    reasons: dict[str, int]  # of the quarantined rows
    photos: dict[str, int]  # photo_status of the kept rows
    issues: dict[str, int]  # of the kept rows, unlabelled only


@dataclass(frozen=True)
class IngestResult:
    """Content of a catalogue after ingest, and the files that hold it."""

    labelled: list[Shard]
    unlabelled: list[Shard]
    counts: dict[str, Counts]  # by part, "labelled" and "unlabelled"
    class_counts: dict[int, int]  # kept rows by prdtypecode, ascending
    names: dict[int, str]  # prdtypecode -> name for people; empty without classes.csv
    synthetic: bool
    content_hash: str  # of all kept bytes and of nothing else
    quarantine: Path  # Parquet (schema.QUARANTINE): rows that were not kept, with their reasons
    file: Path  # JSON of all fields

    def write_summary(self) -> None:
        """Write `file`."""
        summary = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=lambda path: path.name)
        self.file.write_text(summary, encoding="utf-8")
