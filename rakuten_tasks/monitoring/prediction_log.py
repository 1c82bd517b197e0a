"""The prediction log: one JSON line a request while the hour is open, Parquet once it is closed.

Closed hours lie at any fsspec address as {address}/{day}/{hour}.{writer}.parquet. The open hour is a local file, as
object stores cannot append: {open}/{day}T{hour}.{writer}.jsonl. One process, one writer.
"""

from __future__ import annotations

import itertools
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rakuten_tasks.monitoring.columns import FEEDBACK, PREDICTION, SCHEMA

log = logging.getLogger(__name__)

HOUR = "%Y-%m-%dT%H"
BATCH = 50_000  # records in memory at once
LATE = timedelta(seconds=30)  # a writer may still be adding to the hour that has just ended


class LogSegment:
    """Appends records to the file of the present hour. Not for several threads at once."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._writer = folder, writer
        self._hour = ""
        self._file: TextIO | None = None

    def append(self, records: list[dict[str, Any]]) -> None:
        """Write records and hand them to the system: from here on SIGKILL loses none of them."""
        hour = f"{datetime.now(UTC):{HOUR}}"
        if self._file is None or hour != self._hour:
            self.close()
            # a file of its own: what a killed process has torn is never written on
            path = self._folder / f"{hour}.{self._writer}-{uuid.uuid4().hex[:8]}.jsonl"
            self._hour, self._file = hour, path.open("a", encoding="utf-8")
        self._file.write("".join(json.dumps(record, default=str) + "\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Nothing is lost without it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def compact_segments(open_folder: Path, address: str, now: datetime) -> list[str]:
    """Turn the files of past hours into Parquet at the address. -> what was written

    Cut short, it is simply repeated: the same file is written again, and the open one goes last.
    """
    written = []
    for path in _open_files(open_folder):
        end = _hour_of(path) + timedelta(hours=1)
        if end + LATE > now:
            continue
        with path.open("rb") as file:
            rows = list(_lines(path, file))
        if rows:
            target = _closed(address, path)
            _write_parquet(rows, target)
            written.append(target)
        path.unlink()
    return written


def expire(address: str, keep: timedelta, now: datetime) -> list[str]:
    """Remove the closed hours that ended longer ago than `keep`. -> what was removed"""
    filesystem, root = fsspec.core.url_to_fs(address)
    old = [path for path in _closed_files(filesystem, root) if _closed_hour(path) + timedelta(hours=1) < now - keep]
    for path in old:
        filesystem.rm(path)
    return old


def read_log(
    address: str, open_folder: Path | None = None, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Every record from `since` up to, but not at, `until`, by time: the columns of columns.SCHEMA.

    open_folder: also what the open hour holds. A torn line ends its file: what stands before it is read.
    """
    parts = list(stream_log(address, SCHEMA.names, open_folder, since, until))
    records = pd.concat(parts) if parts else SCHEMA.empty_table().to_pandas()
    return records.sort_values("time", kind="stable").reset_index(drop=True)


def stream_log(
    address: str,
    columns: Sequence[str],
    open_folder: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[pd.DataFrame]:
    """What `read_log` reads, some records at a time, hour by hour: a log of any size fits into memory.

    columns: of SCHEMA; the time is always among them.
    """
    schema = pa.schema([SCHEMA.field(name) for name in dict.fromkeys(("time", *columns))])
    for batch in _batches(address, schema, open_folder, since, until):
        records = batch.to_pandas()
        keep = pd.Series(True, index=records.index)
        if since is not None:
            keep &= records["time"] >= since
        if until is not None:
            keep &= records["time"] < until
        if keep.any():
            yield records[keep]


def _batches(
    address: str, schema: pa.Schema, open_folder: Path | None, since: datetime | None, until: datetime | None
) -> Iterator[pa.Table]:
    filesystem, root = fsspec.core.url_to_fs(address)
    # the open hours are listed first: one that is closed from here on is found as one or as the other
    opened = [path for path in _open_files(open_folder) if _overlaps(_hour_of(path), since, until)]
    filesystem.invalidate_cache()  # object stores remember what they listed before
    closed = [path for path in _closed_files(filesystem, root) if _overlaps(_closed_hour(path), since, until)]
    for hour in closed:
        yield from _stored(filesystem, hour, schema)
    for path in opened:
        _, hour = fsspec.core.url_to_fs(_closed(address, path))
        if hour in closed:
            continue  # its open file is still to be removed
        try:
            file = path.open("rb")
        except FileNotFoundError:  # closed since it was listed
            yield from _stored(filesystem, hour, schema)
            continue
        with file:
            lines = _lines(path, file)
            while rows := list(itertools.islice(lines, BATCH)):
                yield _table(rows).select(schema.names)


def _stored(filesystem: fsspec.AbstractFileSystem, hour: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """A closed hour; nothing if it has been forgotten since it was listed, or held nothing."""
    try:
        file = filesystem.open(hour, "rb")
    except FileNotFoundError:
        return
    with file:
        stored = pq.ParquetFile(file)
        known = [name for name in schema.names if name in stored.schema_arrow.names]
        for batch in stored.iter_batches(BATCH, columns=known):
            yield _as(schema, pa.table(batch))


def predictions(records: pd.DataFrame) -> pd.DataFrame:
    """The answered requests of `read_log`, each with the code that feedback gave, the last if it gave several."""
    told = records.loc[records["kind"] == FEEDBACK, ["request_id", "true_code"]]
    answered = records[records["kind"] == PREDICTION].drop(columns="true_code")
    return answered.merge(told.drop_duplicates("request_id", keep="last"), on="request_id", how="left")


def accuracy(answered: pd.DataFrame) -> float | None:
    """Share of right answers among those of `predictions` that have feedback; None if none has."""
    judged = answered[answered["true_code"].notna()]
    return float((judged["predicted"] == judged["true_code"]).mean()) if len(judged) else None


def _open_files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.jsonl")) if folder else []


def _lines(path: Path, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """path: for people."""
    for line in file:
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            log.warning("%s is torn: read up to there", path)
            return
        yield record


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Unknown keys are dropped, missing ones null: a log may hold records of several versions of this package."""
    moments = [{**row, "time": datetime.fromisoformat(str(row["time"]))} for row in rows]
    return pa.Table.from_pylist(moments, schema=SCHEMA)


def _write_parquet(rows: list[dict[str, Any]], target: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(target)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    # under another name first: a crash must leave no half of a Parquet file
    with filesystem.open(f"{path}.part", "wb") as file:
        pq.write_table(_table(rows), file)
    filesystem.mv(f"{path}.part", path)


def _as(schema: pa.Schema, found: pa.Table) -> pa.Table:
    columns = [
        found[name].cast(kind) if name in found.column_names else pa.nulls(len(found), kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _closed(address: str, path: Path) -> str:
    day, _, rest = path.name.removesuffix(".jsonl").partition("T")
    return f"{address.rstrip('/')}/{day}/{rest}.parquet"


def _closed_files(filesystem: fsspec.AbstractFileSystem, root: str) -> list[str]:
    return sorted(filesystem.glob(f"{root.rstrip('/')}/*-*-*/*.parquet"))


def _closed_hour(path: str) -> datetime:
    *_, day, name = path.split("/")
    return datetime.strptime(f"{day}T{name[:2]}", HOUR).replace(tzinfo=UTC)


def _hour_of(path: Path) -> datetime:
    return datetime.strptime(path.name.partition(".")[0], HOUR).replace(tzinfo=UTC)


def _overlaps(start: datetime, since: datetime | None, until: datetime | None) -> bool:
    ended = since is not None and start + timedelta(hours=1) + LATE < since
    return not ended and (until is None or start - LATE < until)
