from __future__ import annotations

import gzip
import logging
import os
import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from rakuten_tasks.config import PublicationConfig
from rakuten_tasks.data.layout import find_test_labels
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.versions.commit import SourceInfo, publish
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring import inputs
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS
from rakuten_tasks.monitoring.comparison import DriftInput, compare_inputs
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.inputs import catalogue_frame, file_frame, is_file
from tests.support.bundles import write_bundle
from tests.support.catalogues import TINY, set_cell, write_catalogue


def test_a_catalogue_gives_the_same_products_as_a_folder_a_table_or_a_publication(tmp_path, monkeypatch):
    """A sample too: of a file sorted by class, the first rows differ from a random sample."""
    source = write_catalogue(tmp_path / "catalogue", labelled=24)
    table = source / "X_train_update.csv"
    for row, title in enumerate(("NA", "null", "None", "007", "1e5", "True", "nan", "12")):
        set_cell(table, row, "designation", title)
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    frame.to_parquet(tmp_path / "X.parquet")
    frame.to_csv(tmp_path / "X.CSV.GZ", index=False, compression="gzip")
    config = PublicationConfig(split=TINY.split)
    read = ingest(str(source), tmp_path / "read", config.ingest)
    publish(read, SourceInfo(str(source), None), str(tmp_path / "shop"), config, True, tmp_path / "draft")
    monkeypatch.setattr(inputs, "MAX_PRODUCTS", 15)
    folder = catalogue_frame(str(source), None, False, max_products=15)
    tables = [file_frame(str(path), None) for path in (table, tmp_path / "X.parquet", tmp_path / "X.CSV.GZ")]
    assert len(folder) == 15
    assert {"NA", "null", "None", "007"} & set(folder["designation"])
    for other in [catalogue_frame(str(tmp_path / "shop"), None, False, max_products=15), *tables]:
        shared = [name for name in other if name != "true_code"]
        pd.testing.assert_frame_equal(folder[shared], other[shared], check_dtype=False)


def test_a_sample_of_a_large_catalogue_is_random_and_found_in_little_memory():
    tracemalloc.start()
    sample = inputs._sample_positions(1_000_000, 3_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # as of 65,536 positions; all of them are 8 MB
    assert len(np.unique(sample)) == 3_000
    assert np.histogram(sample, 5, (0, 1_000_000))[0] == pytest.approx(np.full(5, 600), rel=0.1)
    assert inputs._sample_positions(5, 7).tolist() == [0, 1, 2, 3, 4]
    assert set(inputs._sample_positions(1_000_000, 100)) <= set(sample)


@pytest.mark.parametrize("to_predict", [False, True])
def test_of_a_sample_only_its_own_labels_are_kept(to_predict, tmp_path, monkeypatch, caplog):
    source = write_catalogue(tmp_path / "catalogue", labelled=24, unlabelled=20)
    (source / "Y_test.csv").write_text(",prdtypecode\n" + "".join(f"{row},10\n" for row in range(24, 44)))
    config, work = PublicationConfig(split=TINY.split), tmp_path / "draft"
    read = ingest(str(source), tmp_path / "read", config.ingest)
    work.mkdir()
    publish(read, SourceInfo("", find_test_labels(str(source), work)), str(tmp_path / "shop"), config, True, work)
    matched, match_labels = [], inputs.match_labels
    monkeypatch.setattr(inputs, "match_labels", lambda *args: matched.append(len(args[0])) or match_labels(*args))
    frames = [catalogue_frame(str(tmp_path / name), None, to_predict, 7) for name in ("catalogue", "shop")]
    assert [frame["true_code"].notna().sum() for frame in frames] == [7, 7]
    assert frames[0]["true_code"].tolist() == frames[1]["true_code"].tolist()
    assert set(matched) == {7}
    assert "accuracy" not in caplog.text


def test_drift_columns_as_texts_never_differ_from_the_same_values(tmp_path):
    random = np.random.default_rng(0)
    rows = pd.DataFrame({name: random.random(400) for name in DRIFT_COLUMNS})
    rows = rows.assign(
        designation=random.choice(["NA", "007", "Livre", ""], 400),
        language=random.choice(["fr", "no", "NA", ""], 400),
        photo_missing=random.random(400) < 0.5,
        description_empty=random.random(400) < 0.5,
        predicted=random.choice([10, 2583], 400),
        brightness=pd.Series(random.random(400)).where(random.random(400) < 0.5),
    )
    rows.to_csv(tmp_path / "log.csv", index=False)
    rows.to_parquet(tmp_path / "log.parquet")
    first, second = (DriftInput(file_frame(str(tmp_path / f"log.{kind}"), None), kind) for kind in ("csv", "parquet"))
    for pair in ((first, second), (second, first)):
        decision = compare_inputs(*pair)[0].decision
        assert decision.outcome is Outcome.NO_DRIFT
        assert {item.effect for item in decision.evidence if item.test != "domain classifier"} == {0.0}


@pytest.mark.parametrize("name", ["X.csv", "X.CSV", "X.csv.gz", "X.Parquet"])
def test_a_table_is_known_by_its_name_in_any_case(name):
    assert is_file(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"X\.csv\.gz: the file is empty"),
        (b"designation,designation\na,b\n", r"X\.csv\.gz, line 1: column designation occurs more than once"),
        (b"designation\n\0\n", r"X\.csv\.gz, line 2: a NUL character"),
        (b"title\na\n", r"X\.csv\.gz has the columns title: it needs designation"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "X.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        file_frame(str(tmp_path / "X.csv.gz"), None)
    (tmp_path / "X.csv.gz").write_bytes(gzip.compress(b"designation\n" + b"a\n" * 9999)[:-20])
    with pytest.raises(ValueError, match=r"X\.csv\.gz: not a readable \.gz file .*: compress it again"):
        file_frame(str(tmp_path / "X.csv.gz"), None)


@pytest.mark.parametrize(
    ("answers", "known", "message"),
    [
        (",prdtypecode\n12,10\n99,10\n", 1, "accuracy is measured where labels match: labels of rows that"),
        (",prdtypecode\n12,10\n12,10\n", 0, "accuracy is not measured: .*row number 12 occurs more than once"),
    ],
)  # fmt: skip
def test_labels_that_do_not_match_stop_no_drift_check(tmp_path, caplog, answers, known, message):
    source = write_catalogue(tmp_path)
    (source / "Y_test.csv").write_text(answers)
    with caplog.at_level(logging.WARNING):
        frame = catalogue_frame(str(source), None, to_predict=True)
    assert (len(frame), frame["true_code"].notna().sum()) == (4, known)
    assert re.search(message, caplog.text)


def test_labels_of_a_class_that_the_model_does_not_know_are_left_out(tmp_path, caplog):
    source = write_catalogue(tmp_path)
    (source / "Y_test.csv").write_text(",prdtypecode\n12,10\n13,99\n14,10\n15,10\n")
    predictor = Predictor.load(write_bundle(tmp_path / "bundle"))
    frame = catalogue_frame(str(source), predictor, to_predict=True)
    assert frame["true_code"].notna().tolist() == [True, False, True, True]
    assert "labels of an unknown class: 1 (rows 13)" in caplog.text


def test_labels_in_a_pipe_stop_no_drift_check(tmp_path, caplog):
    source = write_catalogue(tmp_path)
    os.mkfifo(source / "Y_test.csv")
    frame = catalogue_frame(str(source), None, to_predict=True)
    assert (len(frame), frame["true_code"].notna().sum()) == (4, 0)
    assert "accuracy is not measured: " in caplog.text
    assert "no ordinary file" in caplog.text


def test_a_broken_table_of_products_stops_a_drift_check(tmp_path):
    source = write_catalogue(tmp_path)
    (source / "X_test_update.csv").write_text(",designation\n0,a\rb\n")
    with pytest.raises(CatalogueError, match=r"line 2: .*carriage return"):
        catalogue_frame(str(source), None, to_predict=True)
