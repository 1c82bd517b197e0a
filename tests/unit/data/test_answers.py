from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.data.answers import match_labels, write_labels
from rakuten_tasks.data.part_index import LabelIndex

BLANK, UNKNOWN = "labels that are blank or no whole number", "labels of an unknown class"
OTHER, LACKING = "labels of rows that are no product", "products without a label"
ROWS = pd.Index([5, 6, 7])


@pytest.mark.parametrize(
    ("labels", "known", "matched", "mismatch"),
    [
        ({5: 10, 6: 20, 7: 10}, [10, 20], {5: 10, 6: 20, 7: 10}, ""),
        ({5: 10, 6: 20, 7: 30}, None, {5: 10, 6: 20, 7: 30}, ""),
        ({5: 10, 6: None, 7: 30}, [10, 20], {5: 10}, f"{BLANK}: 1 (rows 6); {UNKNOWN}: 1 (rows 7)"),
        ({7: 10, 8: 20}, [10, 20], {7: 10}, f"{OTHER}: 1 (rows 8); {LACKING}: 2 (rows 5, 6)"),
        ({0: 10}, [10], {}, f"{OTHER}: 1 (rows 0); {LACKING}: 3 (rows 5, 6, 7)"),
    ],
)  # fmt: skip
def test_labels_count_where_they_belong_to_a_product_and_a_class(labels, known, matched, mismatch):
    codes = pd.Series(labels, dtype="Int64")
    result = match_labels(codes, ROWS, known)
    assert (result.codes.to_dict(), result.mismatch) == (matched, mismatch)
    assert result.codes.dtype == "int64"


def label_index(labels: dict[int, str], folder: Path) -> LabelIndex:
    folder.mkdir(exist_ok=True)
    pd.Series(labels, name="prdtypecode").to_csv(folder / "Y_test.csv")
    return LabelIndex(LocalFileSystem(), str(folder / "Y_test.csv"), folder)


def row_files(rows: np.ndarray, folder: Path) -> list[Path]:
    """Two files with these row numbers, in row groups of 1,024."""
    paths = [folder / "0.parquet", folder / "1.parquet"]
    for path, part in zip(paths, np.array_split(rows, 2), strict=True):
        pd.DataFrame({"row": part}).to_parquet(path, row_group_size=1024)
    return paths


def test_labels_are_written_in_the_order_of_the_products(tmp_path):
    labels = label_index({7: "10", 5: "20.0", 6: "10"}, tmp_path)
    assert not write_labels(labels, row_files(np.array([6, 5, 7]), tmp_path), [10, 20], tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == ",prdtypecode\n6,10\n5,20\n7,10\n"


def test_labels_that_are_written_are_matched_as_in_memory(tmp_path):
    labels = {9: "10", 5: "", 6: "30", 4: "10", 3: "10", 2: "10"}
    files = row_files(np.arange(5, 9), tmp_path)
    mismatch = write_labels(label_index(labels, tmp_path), files, [10, 20], tmp_path / "answers.csv")
    codes = pd.Series({row: int(text) if text else None for row, text in labels.items()}, dtype="Int64")
    assert mismatch == match_labels(codes, pd.Index(range(5, 9)), [10, 20]).mismatch
    assert mismatch.startswith(f"{OTHER}: 4 (rows 2, 3, 4 and 1 more); {LACKING}: 2 (rows 7, 8); {BLANK}: 1")


def test_memory_does_not_grow_with_the_labels(tmp_path, monkeypatch):
    """The arrays of all rows are memory maps of files, which are not counted here."""
    monkeypatch.setattr("rakuten_tasks.data.number_files.BLOCK", 1024)
    peaks = []
    for rows in (5_000, 50_000):
        folder = tmp_path / str(rows)
        labels = label_index(dict.fromkeys(range(rows), "10"), folder)
        files = row_files(np.arange(rows), folder)
        tracemalloc.start()
        assert not write_labels(labels, files, [10], folder / "answers.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
