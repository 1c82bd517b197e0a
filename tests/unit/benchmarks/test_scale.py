from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import scale
from benchmarks.scale import STEPS, Usage, compare, literal_bytes
from benchmarks.scale_catalogue import MadeUpRows, vocabulary, write_shards
from rakuten_tasks.data.shards import Shard, iter_products, iter_text

STREAMED = next(step for step in STEPS if step.name == "split")
BOUNDED = next(step for step in STEPS if step.name == "bag")


def used(seconds: float = 10.0, memory: float = 1e9, files: int = 1) -> Usage:
    return Usage(seconds, int(memory), 0, 0, files)


def test_what_grows_no_more_than_it_may_is_no_problem() -> None:
    before = {STREAMED: used(), BOUNDED: used()}
    after = {STREAMED: used(seconds=110, memory=1.1e9), BOUNDED: used(seconds=15, files=2000)}
    assert compare({100_000: {}, 1_000_000: before, 10_000_000: after}) == []


def test_memory_time_and_files_that_grow_too_much_are_named() -> None:
    before = {STREAMED: used(), BOUNDED: used()}
    after = {STREAMED: used(seconds=120, memory=1.2e9), BOUNDED: used(seconds=20, files=2001)}
    assert compare({100_000: {}, 1_000_000: before, 10_000_000: after}) == [
        "split 1000 MB at 1,000,000, 1200 at 10,000,000",
        "split 10.0 s at 1,000,000, 120.0 at 10,000,000",
        "member bag 10.0 s at 1,000,000, 20.0 at 10,000,000",
        "member bag 2001 files of a kind at 10,000,000",
    ]


def test_a_step_is_judged_by_the_two_largest_sizes_at_which_it_ran() -> None:
    small, middle, large = {STREAMED: used(memory=1e8)}, {STREAMED: used()}, {STREAMED: used()}
    assert compare({1: small, 10: middle, 100: large}) == []
    assert compare({1: small, 10: middle, 100: {}}) == ["split 100 MB at 1, 1000 at 10"]


def test_literals_do_not_grow_beyond_the_most_shards() -> None:
    assert literal_bytes(2000) < 5000
    assert 400_000 < literal_bytes(10_000_000) == literal_bytes(100_000_000) < scale.LITERAL


def test_made_up_shards_read_as_those_of_an_ingest(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 2500, "labelled")
    assert [shard.rows for shard in shards] == [1000, 1000, 500]
    assert all(isinstance(shard, Shard) for shard in shards)
    (rows,) = iter_text([shards[2].text], ["row", "designation", "prdtypecode", "title_hash"])
    assert rows["row"].tolist() == list(range(2000, 2500))
    assert rows.groupby("title_hash")["designation"].nunique().max() == 1
    assert rows.groupby("title_hash")["prdtypecode"].nunique().max() == 1
    assert len(rows) * 0.9 < rows["title_hash"].nunique() < len(rows)
    assert sum(len(products) for products in iter_products(shards[0])) == 1000
    assert pq.read_table(shards[2].text).equals(MadeUpRows(2500).table(2000, 500))


def test_more_rows_have_more_words() -> None:
    assert (len(vocabulary(10_000)), len(vocabulary(1_000_000))) == (20_000, 200_000)
    words = vocabulary(10_000).to_pylist()
    assert len(np.unique(words)) == len(words)


@pytest.mark.parametrize("rows", ["1000", "2000,1000", "a,b"])
def test_sizes_are_two_or_more_ascending_numbers(rows: str) -> None:
    result = CliRunner().invoke(scale.main, ["--rows", rows])
    assert result.exit_code == 2
    assert "two or more numbers, ascending, separated by commas" in result.output


@pytest.mark.slow
def test_every_step_runs_at_two_tiny_sizes(tmp_path: Path) -> None:
    arguments = ["--rows", "1500,3000", "--members", "lstm", "--sample", "400", "--folder", str(tmp_path)]
    result = CliRunner().invoke(scale.main, arguments, catch_exceptions=False)
    assert result.exit_code in (0, 1)  # these sizes are below the samples, where memory grows
    for step in STEPS:
        assert step.title in result.output or step.member in ("bag", "encoder", "photo")
    assert "3,000 labelled and as many unlabelled products" in result.output
    assert result.output.splitlines()[-1].startswith(("flat: ", "NOT FLAT: "))
    assert list(tmp_path.iterdir()) == []
