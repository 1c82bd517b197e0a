"""The prediction log: one JSON line a request while the hour is open, Parquet once it is closed.

Closed hours are stored at any fsspec address as {address}/{day}/{hour}.{writer}.parquet. The open hour is a local file,
because object stores cannot append: {open}/{day}T{hour}.{writer}.jsonl. Each process has one writer.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from rakuten_tasks.monitoring.columns import SCHEMA
from rakuten_tasks.storage.addresses import list_files, open_address
from rakuten_tasks.storage.parquet_files import iter_batches, write_row_groups
from rakuten_tasks.storage.paths import var_folder

log = logging.getLogger(__name__)

CLOSED = "*-*-*/*.parquet"  # below the address
HOUR = "%Y-%m-%dT%H"
BATCH = 50_000  # records in memory at once
LATE = timedelta(seconds=30)  # a writer may still append to the hour that has just ended


def default_address() -> str:
    """Return SERVE_LOG, or prediction_log in the var folder."""
    return os.environ.get("SERVE_LOG") or str(var_folder() / "prediction_log")


class LogSegment:
    """Writer that appends records to the file of the current hour. Not thread-safe."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._writer = folder, writer
        self._hour = ""
        self._file: TextIO | None = None

    def append(self, records: list[dict[str, Any]]) -> None:
        """Write records and flush them to the operating system, so that SIGKILL loses none of them."""
        hour = f"{datetime.now(UTC):{HOUR}}"
        if self._file is None or hour != self._hour:
            self.close()
            # a new file: a killed process may have left an incomplete last line in its own
            path = self._folder / f"{hour}.{self._writer}-{uuid.uuid4().hex[:8]}.jsonl"
            self._hour, self._file = hour, path.open("a", encoding="utf-8")
        self._file.write("".join(json.dumps(record, default=str) + "\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Close the file. Without it, no record is lost."""
        if self._file is not None:
            self._file.close()
            self._file = None


def compact_segments(open_folder: Path, address: str, now: datetime) -> list[str]:
    """Convert the files of past hours to Parquet at the address. Return the addresses that were written.

    If it is interrupted, call it again: it writes the same file again, and removes the open one last.
    """
    written = []
    for path in _open_files(open_folder):
        end = _open_hour(path) + timedelta(hours=1)
        if end + LATE > now:
            continue
        with path.open("rb") as file:
            tables = _tables(path, file)
            if first := next(tables, None):
                target = _closed_address(address, path)
                _write_parquet(itertools.chain([first], tables), target)
                written.append(target)
        path.unlink()
    return written


def expire(address: str, keep: timedelta, now: datetime) -> list[str]:
    """Remove the closed hours that ended longer ago than `keep`. Return the paths that were removed."""
    filesystem, root = open_address(address)
    old = [path for path in _closed_files(filesystem, root) if _closed_hour(path) + timedelta(hours=1) < now - keep]
    for path in old:
        filesystem.rm_file(path)
    return old


def stream_log(
    address: str,
    columns: Sequence[str],
    open_folder: Path | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the records in [since, until) in batches, hour by hour, so that a log of any size fits into memory.

    columns: of SCHEMA; the time is always included. open_folder: of the hours that are still open. An incomplete line
    ends its file: the lines before it are read.
    """
    schema = pa.schema([SCHEMA.field(name) for name in dict.fromkeys(("time", *columns))])
    for batch in _batches(address, schema, open_folder, since, until):
        records = batch.to_pandas()
        selected = pd.Series(True, index=records.index)
        if since is not None:
            selected &= records["time"] >= since
        if until is not None:
            selected &= records["time"] < until
        if selected.any():
            yield records[selected]


def _batches(
    address: str, schema: pa.Schema, open_folder: Path | None, since: datetime | None, until: datetime | None
) -> Iterator[pa.Table]:
    filesystem, root = open_address(address)
    # list the open hours first: an hour that is closed after this line is in one of the two lists
    open_hours = [path for path in _open_files(open_folder) if _overlaps(_open_hour(path), since, until)]
    filesystem.invalidate_cache()  # fsspec caches listings of object stores
    closed_hours = [path for path in _closed_files(filesystem, root) if _overlaps(_closed_hour(path), since, until)]
    for hour in closed_hours:
        yield from _stored(filesystem, hour, schema)
    for path in open_hours:
        _, hour = open_address(_closed_address(address, path))
        if hour in closed_hours:
            continue  # its open file will be removed
        try:
            file = path.open("rb")
        except FileNotFoundError:  # closed since it was listed
            yield from _stored(filesystem, hour, schema)
            continue
        with file:
            for table in _tables(path, file):
                yield table.select(schema.names)


def _stored(filesystem: AbstractFileSystem, hour: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Read a closed hour; yield nothing if it was removed after it was listed."""
    try:
        file = filesystem.open(hour, "rb")
    except FileNotFoundError:
        return
    with file:
        names = pq.read_schema(file).names
        for batch in iter_batches(file, BATCH, [name for name in schema.names if name in names]):
            yield _cast(pa.table(batch), schema)


def _open_files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.jsonl")) if folder else []


def _lines(path: Path, file: BinaryIO) -> Iterator[dict[str, Any]]:
    """Read records up to the first incomplete line. path: named in the warning."""
    for line in file:
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            log.warning("%s has an incomplete line: read up to that line", path)
            return
        yield record


def _tables(path: Path, file: BinaryIO) -> Iterator[pa.Table]:
    """Read the records of an open hour, BATCH at a time."""
    lines = _lines(path, file)
    while rows := list(itertools.islice(lines, BATCH)):
        yield _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Drop unknown keys and set missing ones to null: a log may have records of several versions of this package."""
    records = [{**row, "time": datetime.fromisoformat(str(row["time"]))} for row in rows]
    return pa.Table.from_pylist(records, schema=SCHEMA)


def _write_parquet(tables: Iterable[pa.Table], target: str) -> None:
    filesystem, path = open_address(target)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    # under another name first: a crash must not leave an incomplete Parquet file
    with filesystem.open(f"{path}.part", "wb") as file:
        write_row_groups(file, SCHEMA, tables)
    filesystem.mv(f"{path}.part", path)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast columns to the schema; missing columns become null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _closed_address(address: str, path: Path) -> str:
    day, _, rest = path.name.removesuffix(".jsonl").partition("T")
    return f"{address.rstrip('/')}/{day}/{rest}.parquet"


def _closed_files(filesystem: AbstractFileSystem, root: str) -> list[str]:
    return list(list_files(filesystem, root, CLOSED))


def _closed_hour(path: str) -> datetime:
    *_, day, name = path.split("/")
    return datetime.strptime(f"{day}T{name[:2]}", HOUR).replace(tzinfo=UTC)


def _open_hour(path: Path) -> datetime:
    return datetime.strptime(path.name.partition(".")[0], HOUR).replace(tzinfo=UTC)


def _overlaps(start: datetime, since: datetime | None, until: datetime | None) -> bool:
    is_before = since is not None and start + timedelta(hours=1) + LATE < since
    return not is_before and (until is None or start - LATE < until)
