from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data import csv_files, number_files, read_catalogue
from rakuten_tasks.data.csv_files import Chunk
from rakuten_tasks.data.number_files import NumberFile, locate
from rakuten_tasks.data.part_index import index_part
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.row_validator import RowValidator
from rakuten_tasks.data.schema import PRODUCTS, CatalogueError
from rakuten_tasks.data.shards import read_products
from tests.support.catalogues import set_cell, write_catalogue

LENIENT = IngestConfig(max_bad_share=1.0)
X_TRAIN, Y_TRAIN, X_TEST = "X_train_update.csv", "Y_train_CVw08PX.csv", "X_test_update.csv"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(number_files, "BLOCK", 4)
    monkeypatch.setattr(csv_files, "CHUNK", 5)


@pytest.fixture
def source(tmp_path):
    return write_catalogue(tmp_path / "in")


def shuffle(file: Path, seed: int) -> list[int]:
    """Put the rows of a CSV in another order."""
    header, *lines = file.read_text().splitlines()
    lines = [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))]
    file.write_text("\n".join([header, *lines, ""]))
    return [int(line.split(",")[0]) for line in lines]


@pytest.mark.parametrize(("rows_shuffled", "labels_shuffled"), [(0, 1), (1, 0), (1, 2), (1, 1)])
def test_labels_belong_to_rows_by_number_in_any_order(source, tmp_path, rows_shuffled, labels_shuffled):
    order = shuffle(source / X_TRAIN, rows_shuffled) if rows_shuffled else list(range(12))
    if labels_shuffled:
        shuffle(source / Y_TRAIN, labels_shuffled)
    rows = pd.concat(map(read_products, ingest(str(source), tmp_path / "out", IngestConfig()).labelled))
    assert rows["row"].tolist() == order
    assert rows["prdtypecode"].tolist() == [(10, 1300, 2583)[row % 3] for row in order]


def test_labels_in_another_order_are_quarantined_as_in_the_file(source, tmp_path):
    for row, text in ((2, " livre é"), (5, ""), (7, "10.5"), (9, "x" * 300)):
        set_cell(source / Y_TRAIN, row, "prdtypecode", text)
    shuffle(source / Y_TRAIN, 1)
    found = pd.read_parquet(ingest(str(source), tmp_path / "out", LENIENT).quarantine).set_index("row")
    assert found["prdtypecode"].to_dict() == {2: " livre é", 5: "", 7: "10.5", 9: "x" * 300}
    assert found["reason"].to_dict() == {2: "bad_label", 5: "missing_label", 7: "bad_label", 9: "bad_label"}


def test_labels_that_are_all_blank_are_read(source, tmp_path):
    for row in range(12):
        set_cell(source / Y_TRAIN, row, "prdtypecode", "")
    found = ingest(str(source), tmp_path / "out", LENIENT)
    assert found.counts["labelled"].reasons == {"missing_label": 12}


def test_of_rows_that_share_a_productid_the_first_valid_one_in_the_file_is_kept(source, tmp_path):
    for row in (3, 6, 9, 11):
        set_cell(source / X_TRAIN, row, "productid", "777")
    order = shuffle(source / X_TRAIN, 3)
    first, second, *others = [row for row in order if row in (3, 6, 9, 11)]
    text = (source / X_TRAIN).read_text().replace(f"\n{first},", f"\n{first},,,777,1\n99{first},")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(f"99{first},")) + "\n"
    (source / X_TRAIN).write_text(text)  # the first has no title, so that the second is the first valid one
    found = ingest(str(source), tmp_path / "out", LENIENT)
    reasons = pd.read_parquet(found.quarantine).set_index("row")["reason"].to_dict()
    assert reasons == {first: "no_title", **dict.fromkeys(others, "duplicate_productid")}
    assert second in pd.concat(map(read_products, found.labelled))["row"].tolist()


def test_products_to_predict_that_all_share_productids_are_flagged_but_the_first(tmp_path):
    source = write_catalogue(tmp_path / "in", unlabelled=40)
    for row in range(12, 52):
        set_cell(source / X_TEST, row, "productid", str(row % 10))
    found = ingest(str(source), tmp_path / "out", LENIENT)
    assert found.counts["unlabelled"].issues == {"duplicate_productid": 30}
    rows = pd.concat(map(read_products, found.unlabelled))
    assert rows["issue"].isna().tolist() == [True] * 10 + [False] * 30


@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_without_label_and_labels_without_row_are_counted_over_all_blocks(source, tmp_path, shuffled):
    rows = pd.read_csv(source / X_TRAIN, index_col=0)
    rows.rename(index={i: i + 100 for i in range(6)}).to_csv(source / X_TRAIN)
    if shuffled:
        shuffle(source / Y_TRAIN, 1)
    with pytest.raises(CatalogueError) as error:
        ingest(str(source), tmp_path / "out", IngestConfig())
    assert f"6 rows of {source}/{X_TRAIN} are not in {source}/{Y_TRAIN} (100, 101, 102 and 3 more)" in str(error.value)
    assert f"6 rows of {source}/{Y_TRAIN} are not in {source}/{X_TRAIN} (0, 1, 2 and 3 more)" in str(error.value)


def test_row_numbers_that_occur_twice_are_counted_over_all_blocks(source, tmp_path):
    rows = pd.read_csv(source / X_TRAIN, index_col=0)
    rows.set_axis([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 3]).to_csv(source / X_TRAIN)
    with pytest.raises(CatalogueError, match=r"row number 0, 1, 2 occurs more than once: number each row once"):
        ingest(str(source), tmp_path / "out", IngestConfig())


def test_nothing_is_left_beside_the_result(source, tmp_path):
    ingest(str(source), tmp_path / "deep" / "work" / "out", IngestConfig())
    assert [path.name for path in (tmp_path / "deep" / "work").iterdir()] == ["out"]


def test_a_row_that_the_index_lacks_is_a_catalogue_that_changed(source, tmp_path):
    filesystem = fsspec.filesystem("file")
    index = index_part(filesystem, str(source / X_TRAIN), str(source / Y_TRAIN), tmp_path)
    changed = pd.read_csv(source / X_TRAIN, index_col=0).rename(index={7: 70})
    changed.to_csv(source / X_TRAIN)
    validator = RowValidator(index)
    chunks = csv_files.read_chunks(filesystem, str(source / X_TRAIN), PRODUCTS)
    with pytest.raises(CatalogueError, match=r"has no row 70: the catalogue changed while it was read, run again"):
        list(map(validator.validate, chunks))


def test_quarantined_rows_fill_row_groups(source, tmp_path, monkeypatch):
    monkeypatch.setattr(read_catalogue, "QUARANTINE_ROWS", 8)
    for row in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11):
        set_cell(source / X_TRAIN, row, "designation", "")
    metadata = pq.read_metadata(ingest(str(source), tmp_path / "out", LENIENT).quarantine)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [9, 2]


def test_numbers_are_sorted_and_repeated_ones_listed_over_all_blocks(tmp_path):
    numbers = np.random.default_rng(0).integers(-30, 30, 100)
    file = NumberFile(tmp_path / "numbers")
    for part in np.split(numbers, [0, 7, 50]):
        file.append(part)
    values, counts = np.unique(numbers, return_counts=True)
    assert file.map().tolist() == numbers.tolist()
    assert file.map_sorted().tolist() == sorted(numbers.tolist())
    assert file.map_repeated().tolist() == values[counts > 1].tolist()
    assert not file.ascending


def test_ascending_numbers_need_no_second_file(tmp_path):
    file = NumberFile(tmp_path / "numbers")
    file.append([1, 2, 5])
    file.append([6, 10**18])
    assert file.ascending
    assert file.map_sorted().tolist() == [1, 2, 5, 6, 10**18]
    assert file.map_repeated().tolist() == []
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]
    file.append([10**18])
    assert not file.ascending


def test_no_number_is_in_an_empty_column(tmp_path):
    empty = NumberFile(tmp_path / "numbers").map()
    assert locate(empty, np.array([1, 2]))[1].tolist() == [False, False]
    assert locate(np.array([1, 3]), np.array([0, 1, 2, 3, 4]))[1].tolist() == [False, True, False, True, False]


def peak_of_index(folder: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes on the heap, at most, while rows in descending order, and labels in ascending order, are indexed."""

    def chunks(filesystem, path: str, schema) -> Iterator[Chunk]:
        for start in range(0, rows, 256):
            numbers = np.arange(start, min(rows, start + 256))
            if path == "X.csv":
                yield Chunk(None, pd.DataFrame({"productid": numbers // 2}, rows - 1 - numbers))
            else:
                yield Chunk(pd.DataFrame({"prdtypecode": "10"}, numbers), pd.DataFrame(index=numbers))

    monkeypatch.setattr("rakuten_tasks.data.part_index.read_chunks", chunks)
    folder.mkdir()
    tracemalloc.start()
    try:
        assert index_part(None, "X.csv", "Y.csv", folder).rows == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_an_index_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(number_files, "BLOCK", 256)
    peak_of_index(tmp_path / "first", 1000, monkeypatch)  # imports and caches
    small, large = (peak_of_index(tmp_path / str(rows), rows, monkeypatch) for rows in (4_000, 64_000))
    assert large - small < 60_000  # bytes: one for each row
