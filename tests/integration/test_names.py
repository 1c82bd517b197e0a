"""Paths and names with letters that some reader takes for something else: nothing else is read or written."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from rakuten_tasks.config import PublicationConfig, TrainingConfig
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.layout import find_layout, is_synthetic, test_labels
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.versions.commit import SourceInfo, publish
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.monitoring.inputs import file_frame, is_file
from rakuten_tasks.monitoring.prediction_log import compact_segments, expire, stream_log
from rakuten_tasks.registry import audit, runs, tracking, versions
from rakuten_tasks.registry.model_names import require_model_name
from rakuten_tasks.tasks.start_run import stat_source
from tests.support.catalogues import TINY, write_catalogue
from tests.support.nasty_names import NASTY, list_names
from workflows.training import train_classifier

answers_of = test_labels
del test_labels  # pytest would run it

SPLIT = PublicationConfig(ingest=TINY.ingest, split=TINY.split)


@pytest.mark.parametrize("name", NASTY)
def test_a_catalogue_is_read_and_published_under_its_own_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_catalogue(tmp_path / NASTY[name], labelled=12, unlabelled=2)
    write_catalogue(tmp_path / name, labelled=24, unlabelled=4)
    before = list_names(tmp_path)
    result = ingest(name, tmp_path / "work" / name, TINY.ingest)
    assert (result.counts["labelled"].kept, result.counts["unlabelled"].kept) == (24, 4)
    assert result.counts["labelled"].photos == {"ok": 24}
    assert stat_source(name).address == f"{tmp_path}/{name}"
    assert fingerprint(name) != fingerprint(NASTY[name])
    assert (is_synthetic(name), answers_of(name)) == (False, None)

    outcome = publish(result, SourceInfo(name, None), f"out/{name}", SPLIT, add=True, work=tmp_path / "work")
    address = outcome.published.address
    assert address == f"out/{name}/versions/000001.json"
    for source in (f"out/{name}", address):
        version = find_version(source)
        assert version is not None
        assert version.manifest.rows("labelled") == 24
        predicted = ingest(source, tmp_path / "work/again", TINY.ingest, labelled=False)
        assert predicted.counts["unlabelled"].kept == 4
    added = [path for path in list_names(tmp_path) if path not in before]
    assert {path for path in added if not path.startswith((f"out/{name}", f"work/{name}", "work/"))} == {"out", "work"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


@pytest.mark.parametrize("name", NASTY)
def test_a_log_and_a_table_are_read_from_their_own_place(name, tmp_path):
    record = {
        "kind": "prediction",
        "request_id": "1",
        "time": "2026-01-02T03:04:05+00:00",
        "model": "m",
        "version": "1",
    }
    for address, model in ((NASTY[name], "other"), (name, "m")):
        hours = tmp_path / "open" / address
        hours.mkdir(parents=True)
        (hours / "2026-01-02T03.writer.jsonl").write_text(json.dumps({**record, "model": model}) + "\n")
        now = datetime(2026, 1, 3, tzinfo=UTC)
        assert len(compact_segments(hours, f"{tmp_path}/{address}", now)) == 1
        pd.DataFrame({"designation": [model]}).to_csv(tmp_path / f"{address}.csv")
    assert pd.concat(stream_log(f"{tmp_path}/{name}", ["model"]))["model"].tolist() == ["m"]
    assert is_file(f"{tmp_path}/{name}.csv")
    assert file_frame(f"{tmp_path}/{name}.csv", None)["designation"].tolist() == ["m"]
    assert len(expire(f"{tmp_path}/{name}", timedelta(0), now)) == 1
    assert pd.concat(stream_log(f"{tmp_path}/{NASTY[name]}", ["model"]))["model"].tolist() == ["other"]


def test_a_folder_that_ends_like_a_table_is_a_catalogue(tmp_path):
    source = write_catalogue(tmp_path / "shop.csv")
    assert not is_file(str(source))
    assert find_layout(str(source)).train_rows == f"{source}/X_train_update.csv"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a new store, to be copied: it takes seconds to create."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as tracking.connect does
        tracking._create(database)
    return database


@pytest.mark.parametrize("name", ["a b", "v%20r", "v?x", "h#i", "ne\u0301e", "o'k", "b[xy]", "$HOME;x"])
def test_the_store_of_a_var_folder_lies_in_it(name, tmp_path, empty_store, monkeypatch):
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database = tmp_path / name / "mlflow/mlflow.db"
    uri = tracking.tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # as MLflow does, and a user who copies `make train`'s last line
    assert (tracking.tracking_uri(), tracking.sqlite_file(uri)) == (uri, database)
    assert not tracking.store_exists()
    database.parent.mkdir(parents=True)
    shutil.copy(empty_store, database)
    client = tracking.connect()
    assert tracking.store_exists()
    run_id = runs.start_parent("run", {}, {"source": name})
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/file.json").write_text("{}")
    assert versions.register(client, f"model {len(name)}", tmp_path / "bundle", run_id, {}) == 1
    folder = versions.fetch(client, f"model {len(name)}", "1")
    assert folder.is_relative_to(tmp_path / name / "mlflow/artifacts")
    assert [path.name for path in folder.iterdir()] == ["file.json"]
    runs.finish_parent(run_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "bundle"])


def test_a_var_folder_that_flyte_would_misread_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path / "a::b"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="Flyte takes :: for a chain of addresses"):
        tracking.tracking_uri()


@pytest.mark.parametrize(
    "address",
    ["sqlite:///v?x/mlflow.db", "sqlite://", "sqlite:///:memory:", "sqlite:mlflow.db", "sqlite://host/x",
     "sqlite:///file:x.db?uri=true"],
)  # fmt: skip
def test_a_store_that_is_not_the_file_which_is_written_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ValueError, match="write sqlite:///FILE, with %3F for a \\?") as refused:
        tracking.connect()
    assert address in str(refused.value)
    assert list_names(tmp_path) == []


def test_an_encoded_address_of_a_store_makes_no_second_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a%20b/mlflow.db")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/a b/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a%2520b/mlflow.db")
    assert tracking.sqlite_file(tracking.tracking_uri()) == tmp_path / "a%20b/mlflow.db"


@pytest.mark.parametrize("name", ["ne\u0301e", "a b", "a+b&c=d;e", "x*[y]{z}", "$HOME", "1"])
def test_a_model_is_found_again_under_its_name(name, mlflow_store, tmp_path):
    run_id = runs.start_parent(name, {}, {})
    (tmp_path / "file.json").write_text("{}")
    assert versions.latest_version(mlflow_store, name) is None
    number = versions.register(mlflow_store, name, tmp_path, run_id, {})
    assert versions.register(mlflow_store, name, tmp_path, run_id, {}) == number == 1
    versions.promote(mlflow_store, name, 1, "me", '[/] [red] :smile: o\'k\n"$x"')
    assert versions.fetch_champion(mlflow_store, name, False).version == 1
    assert [event.reason for event in audit.history(mlflow_store, name)] == ['[/] [red] :smile: o\'k\n"$x"']
    runs.finish_parent(run_id)


@pytest.mark.parametrize(
    "name", ["o'k", 'd"q', "a/b", "a:b", "..", ".x", "a?b", "a#b", "a%20b", "a@champion", "a`b", "a\\b", " a", "a\n",
             "x" * 201, "é" * 101, os.fsdecode(b"\xff")],
)  # fmt: skip
def test_a_name_that_mlflow_would_not_find_again_is_refused_before_anything_else(name, mlflow_store):
    count = len(mlflow.search_runs([tracking.experiment_id(mlflow_store)]))
    with pytest.raises(ValueError, match="the name of a model has up to 200 bytes"):
        require_model_name(name)
    for use in (versions.list_versions, versions.latest_version):
        with pytest.raises(ValueError, match="the name of a model"):
            use(mlflow_store, name)
    with pytest.raises(ValueError, match="the name of a model"):
        versions.resolve_model(mlflow_store, name, synthetic=False)
    if name.isprintable():
        with pytest.raises(Exception, match="the name of a model"):
            train_classifier(source="sample", config=TrainingConfig(), model=name, report="")
    assert len(mlflow.search_runs([tracking.experiment_id(mlflow_store)])) == count
