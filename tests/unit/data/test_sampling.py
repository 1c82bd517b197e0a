from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rakuten_tasks.config import SampleConfig, SplitConfig
from rakuten_tasks.data.assignments import count_rows, read_titles
from rakuten_tasks.data.sampling import EXPECTED_ROWS, require_trained_classes, sample_fractions, select_rows
from rakuten_tasks.data.shards import open_parquet
from rakuten_tasks.data.splits import SPLITS, TEST, TRAIN, TitleSplits

SPLIT = SplitConfig()
ROWS = 6000
CODES = np.where(np.arange(ROWS) % 60 == 0, 20, 10)  # class 20 is rare: 100 rows


def hashes(seed: int = 0, rows: int = ROWS) -> NDArray[np.uint64]:
    titles = np.random.default_rng(seed).integers(0, 2**64, rows, dtype=np.uint64)
    return titles[np.arange(rows) // 2]  # each title twice, in one class where the neighbours' are the same


def text_files(folder: Path, rows: int = ROWS) -> list[Path]:
    """Two shards; every third row has no photo."""
    photos = [None if row % 3 == 0 else row for row in range(rows)]
    table = pd.DataFrame({"row": range(rows), "title_hash": hashes()[:rows], "prdtypecode": CODES[:rows]})
    table["product_hash"] = np.random.default_rng(1).integers(0, 2**64, ROWS, dtype=np.uint64)[:rows]
    table["photo_hash"] = pd.array(photos, "UInt64")
    paths = [folder / "0.parquet", folder / "1.parquet"]
    for path, part in zip(paths, (table[: rows // 2], table[rows // 2 :]), strict=True):
        part.to_parquet(path, index=False)
    return paths


def select(files: Sequence[Path | str], sample: SampleConfig, known: TitleSplits | None = None) -> pd.DataFrame:
    splits = (known or TitleSplits.empty()).extended(read_titles(files), SPLIT)
    return select_rows(files, splits, sample_fractions(count_rows(splits, read_titles(files)), sample))


def test_every_row_is_used_within_the_budgets(tmp_path: Path):
    selected = select(text_files(tmp_path), SampleConfig())
    assert selected["row"].tolist() == list(range(ROWS))
    assert selected["shard"].tolist() == [0] * (ROWS // 2) + [1] * (ROWS // 2)
    assert selected["photo_hash"].isna().tolist() == [row % 3 == 0 for row in range(ROWS)]


def test_a_split_above_its_budget_is_sampled_and_the_others_are_not(tmp_path: Path):
    files = text_files(tmp_path)
    everything, selected = select(files, SampleConfig()), select(files, SampleConfig(training=1000))
    counts = selected["split"].value_counts()
    assert 800 <= counts[TRAIN] <= 1060
    for split in range(1, len(SPLITS)):
        assert counts[split] == (everything["split"] == split).sum()
    assert "product_hash" not in selected
    # of the rare class every row stays
    assert (selected["prdtypecode"] == 20).sum() == (everything["prdtypecode"] == 20).sum()


@pytest.mark.parametrize("title", range(5))
def test_a_title_of_most_rows_is_sampled_as_any_other(tmp_path: Path, title: int):
    files = text_files(tmp_path)
    for file in files:
        table = pd.read_parquet(file)
        table.loc[table.index % 4 > 0, "title_hash"] = np.uint64(title)
        table.to_parquet(file, index=False)
    counts = select(files, SampleConfig(training=1000, validation=1000, blending=1000, test=1000))[
        "split"
    ].value_counts()
    assert 800 <= counts.max() <= 1060


def test_a_catalogue_that_grows_by_a_little_keeps_its_sample(tmp_path: Path):
    sample = SampleConfig(training=1000, test=200)
    files = text_files(tmp_path, ROWS - 6)
    known, before = TitleSplits.empty().extended(read_titles(files), SPLIT), select(files, sample)
    after = select(text_files(tmp_path), sample, known)
    assert set(before["row"]) <= set(after["row"])
    assert len(after) - len(before) <= 6


@given(
    rows=st.lists(st.tuples(*[st.integers(0, 10**6)] * 4), min_size=1, max_size=30),
    budget=st.integers(100, 200_000),
)
@settings(deadline=None)
def test_the_expected_number_of_rows_is_in_the_budget_and_near_it(rows, budget):
    counts = {code: np.array(by_split, dtype=np.int64) for code, by_split in enumerate(rows)}
    fractions = sample_fractions(counts, SampleConfig(budget, budget, budget, budget))
    for split in range(len(SPLITS)):
        used = sum(counts[code][split] * fractions[code][split] for code in counts)
        total = sum(by_split[split] for by_split in rows)
        assert used == total if total <= budget else 0.8 * budget <= used <= budget
    assert all(0 < fraction <= 1 for values in fractions.values() for fraction in values)


def test_a_split_whose_only_title_is_left_out_is_an_error(tmp_path: Path):
    files = text_files(tmp_path)
    splits = TitleSplits.empty().extended(read_titles(files), SPLIT)
    fractions = {10: np.array([1, 1, 1, 0.0]), 20: np.array([1, 1, 1, 0.0])}
    with pytest.raises(ValueError, match="no row of test is in the sample: increase `sample` in the configuration"):
        select_rows(files, splits, fractions)
    assert (splits.lookup(hashes()) == TEST).any()


def test_a_class_of_which_no_training_row_is_sampled_is_an_error(tmp_path: Path):
    files = text_files(tmp_path)
    splits = TitleSplits.empty().extended(read_titles(files), SPLIT)
    counts = count_rows(splits, read_titles(files)) | {30: np.array([0, 0, 0, 1])}  # without any, 30 is no error
    everything = np.ones(len(SPLITS))
    require_trained_classes(counts, select_rows(files, splits, {10: everything, 20: everything}))
    selected = select_rows(files, splits, {10: everything, 20: np.array([0, 1, 1, 1.0])})
    with pytest.raises(ValueError, match=r"no training row of class 20 is in the sample.*sample\.training.* to 120 or"):
        require_trained_classes(counts, selected)


def test_the_sample_that_the_error_recommends_has_every_class():
    """Of 5,000 classes with rows of 1 to 4 digits, each expects 20 training rows at least, or all it has."""
    counts = {code: np.full(len(SPLITS), 10 ** (code % 4)) for code in range(5000)}
    budget = 2 * EXPECTED_ROWS * len(counts)
    for code, fractions in sample_fractions(counts, SampleConfig(training=budget)).items():
        rows = counts[code][TRAIN]
        assert rows * fractions[TRAIN] >= min(rows, EXPECTED_ROWS)


def test_shards_in_a_store_are_read_where_they_are(tmp_path: Path):
    filesystem = fsspec.filesystem("memory")
    local, stored = text_files(tmp_path), []
    for path in local:
        filesystem.pipe_file(f"/sampling/{path.name}", path.read_bytes())
        stored.append(f"memory://sampling/{path.name}")
    try:
        pd.testing.assert_frame_equal(select(stored, SampleConfig()), select(local, SampleConfig()))
        with open_parquet(stored[0], ["row"]) as parquet:
            assert parquet.read(["row"])["row"].to_pylist() == list(range(ROWS // 2))
    finally:
        filesystem.rm("/sampling", recursive=True)
