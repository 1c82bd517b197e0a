"""A registered version, trained again from what it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from rakuten_tasks.models import bundle
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.registry import versions
from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.tasks.reproduce import compare_versions
from rakuten_tasks.tasks.types import RegisteredVersion
from tests.support.catalogues import TINY, set_cell, write_catalogue
from workflows.training import reproduce_version, train_classifier

MODEL = "reproduced"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("reproduction") / "catalogue", labelled=45, unlabelled=1)


@pytest.fixture(scope="module")
def trained(source: Path, mlflow_store: MlflowClient, local_runs: Path) -> RegisteredVersion:
    return train_classifier(source=str(source), config=TINY, model=MODEL)


@pytest.fixture
def without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_LOCAL_CACHE_ENABLED", "false")


def children(store: MlflowClient, source: Path) -> set[str]:
    run = store.search_runs(["1"], f"tags.source = '{source}'", order_by=["attributes.start_time DESC"])[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["reproduces"] == f"{MODEL} version 1"
    found = store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return {child.info.run_name for child in found}


def test_a_version_is_trained_again_and_is_the_same_bit_for_bit(source, trained, mlflow_store, without_cache, tmp_path):
    """From where its catalogue was moved to."""
    report, moved = tmp_path / "report.json", tmp_path / "moved"
    shutil.copytree(source, moved)
    comparison = reproduce_version(version=trained.version, model=MODEL, source=str(moved), report=str(report))
    assert (comparison.same_weights, comparison.same_predictions, comparison.differences) == (True, 1.0, [])
    assert comparison.f1_then == comparison.f1_now
    assert json.loads(report.read_text())["version"] == 1
    assert {"ingest", "split", "fit_bag", "fit_lstm", "fit_vgg16", "pool_members", "evaluate_test"} <= children(
        mlflow_store, moved
    )
    assert [version.number for version in versions.list_versions(mlflow_store, MODEL)] == [1]  # nothing is registered


def test_another_catalogue_at_the_same_place_is_named_as_the_reason(
    source, trained, mlflow_store, without_cache, tmp_path
):
    keep = tmp_path / "X_train_update.csv"
    shutil.copy(source / keep.name, keep)
    titles = pd.read_csv(keep, index_col=0)["designation"]
    try:
        for row in range(45):
            set_cell(source / keep.name, row, "designation", f"{titles[(row + 1) % 45]} {row}")
        with pytest.raises(ValueError, match=r"version 1 was not reproduced: .*catalogue: \w+ then, \w+ now"):
            reproduce_version(version=trained.version, model=MODEL)
    finally:
        shutil.copy(keep, source / keep.name)


def test_what_differs_between_two_bundles_is_told(trained, mlflow_store, tmp_path):
    folder = versions.fetch(mlflow_store, MODEL, "1", tmp_path / "1")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    manifest = json.loads((other / bundle.MANIFEST).read_text())
    weights = PretrainedWeights("vgg16", "a file", "unknown", "f11e").to_dict()
    manifest["lineage"] |= {"machine": "another processor", "code": "c0de", "pretrained": [weights]}
    (other / bundle.MANIFEST).write_text(json.dumps(manifest))
    test = pd.read_parquet(other / bundle.TEST)
    test.loc[0, "predicted"] = -1
    test.to_parquet(other / bundle.TEST)
    comparison = compare_versions(MODEL, 1, folder, other)
    assert comparison.same_weights
    assert comparison.same_predictions == pytest.approx(1 - 1 / len(test))
    lineage = bundle.read_manifest(folder).lineage
    assert lineage.code == code_version()
    assert comparison.differences == [
        f"code or libraries: {lineage.code} then, c0de now",
        "pretrained weights: vgg16 random then, vgg16 f11e now",
        f"machine: {lineage.machine} then, another processor now",
    ]


@pytest.mark.parametrize("part", ["members/bag", "members/vgg16", "extractors/tokens"])
def test_a_file_that_differs_in_any_member_or_extractor_is_told(trained, mlflow_store, tmp_path, part):
    folder = versions.fetch(mlflow_store, MODEL, "1", tmp_path / "1")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    changed = next(path for path in sorted((other / part).rglob("*")) if path.is_file())
    changed.write_bytes(changed.read_bytes() + b" ")
    assert not compare_versions(MODEL, 1, folder, other).same_weights


def test_a_pool_that_differs_is_told(trained, mlflow_store, tmp_path):
    folder = versions.fetch(mlflow_store, MODEL, "1", tmp_path / "1")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    manifest = json.loads((other / bundle.MANIFEST).read_text())
    manifest["pool"]["weights"]["text"]["bag"] += 0.1
    (other / bundle.MANIFEST).write_text(json.dumps(manifest))
    assert not compare_versions(MODEL, 1, folder, other).same_weights
