"""Thousands of damaged CSV files: each is read in full, or refused with one CatalogueError that names the file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.csv_files import read_chunks, read_class_names, read_labels
from rakuten_tasks.data.csv_reader import read_tables
from rakuten_tasks.data.part_index import index_part
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.row_validator import RowValidator
from rakuten_tasks.data.schema import PRODUCTS, CatalogueError, whole_numbers

pytestmark = pytest.mark.slow

SOUND = (
    b',designation,description,productid,imageid\n0,Piscine,"bleue, ronde",100,500\n1,Drone,,101,501\n'
    b'2,"Lot ""neuf""","deux\nlignes",102,\n'
)
# what tools, editors and people leave in files
PIECES = st.sampled_from(
    [b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"sep=,\n", b",,,,\n", b"NA",
     b"\\", b"\t", b";", b"007", b"1e5", b" ", b"\xe2\x80\xa8", b"9" * 30, b"-1", b"\n3,x,y,103,503\n", b"\xc2\xad"]
)  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, len(SOUND)), st.integers(0, 9), PIECES), min_size=1, max_size=4)
FUZZ = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def _damage(edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace some bytes at each place by a piece."""
    content = SOUND
    for at, gone, piece in edits:
        content = content[:at] + piece + content[at + gone :]
    return content


def _read(reader, content: bytes):
    """The result, or None if the content is refused as it should be."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/fuzz/X.csv", content)
    try:
        return reader(filesystem, "/fuzz/X.csv")
    except CatalogueError as error:
        message = str(error)
    assert message.startswith("/fuzz/X.csv")
    assert "\n" not in message
    return None


@seed(16)
@FUZZ
@given(st.binary(max_size=80) | EDITS.map(_damage))
def test_each_reader_returns_rows_or_refuses(content):
    _read(read_labels, content)
    _read(read_class_names, content)
    with tempfile.TemporaryDirectory() as folder:
        part = _read(lambda filesystem, path: index_part(filesystem, path, None, Path(folder)), content)
        if part is None:
            return
        validator = RowValidator(part)
        chunks = read_chunks(fsspec.filesystem("memory"), "/fuzz/X.csv", PRODUCTS)
        rows = pd.concat(map(validator.validate, chunks))
    assert (len(rows), rows.index.has_duplicates) == (part.rows, False)


def _misplace_quotes() -> Iterator[bytes]:
    """Add one or two quotes to the rows, everywhere, also where one was taken away."""
    start = SOUND.index(b"\n") + 1
    quotes = [at for at in range(len(SOUND)) if SOUND[at : at + 1] == b'"']
    for content in [SOUND, *(SOUND[:at] + SOUND[at + 1 :] for at in quotes)]:
        for first, second in combinations_with_replacement(range(start, len(content) + 1), 2):
            yield content[:first] + b'"' + content[first:second] + content[second:]
            yield content[:first] + b'"' + content[first:second] + b'"' + content[second:]


def test_misplaced_quotes_lose_no_row():
    refused = 0
    for content in _misplace_quotes():
        try:
            rows = pd.concat(read_tables(io.BytesIO(content), "X.csv", 9))
        except CatalogueError:
            refused += 1
            continue
        if whole_numbers(rows[""]).isna().any():  # refused by the catalogue's reader
            continue
        assert rows[""].tolist() == ["0", "1", "2"], content
        own = ("100", "101", "102")  # a quote may spoil its own row's number, which then is no whole number
        assert all(text == own[i] or text not in own for i, text in enumerate(rows["productid"])), content
    assert refused > 1000


@seed(16)
@settings(FUZZ, max_examples=150)
@given(EDITS.map(_damage))
def test_kept_and_quarantined_rows_are_the_rows_that_were_read(tmp_path_factory, content):
    folder: Path = tmp_path_factory.mktemp("fuzz")
    (folder / "X_train.csv").write_bytes(content)
    (folder / "Y_train.csv").write_text(",prdtypecode\n0,10\n1,20\n2,10\n")
    try:
        ingested = ingest(str(folder), folder / "out", IngestConfig(max_bad_share=1.0))
    except CatalogueError:
        return
    counts = ingested.counts["labelled"]
    assert counts.kept + counts.quarantined == counts.read == 3
    assert sum(shard.rows for shard in ingested.labelled) == counts.kept
    assert pq.read_table(ingested.quarantine).num_rows == counts.quarantined
