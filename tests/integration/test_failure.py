"""A training that fails leaves its reason, and no alias moved."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
from flyteidl.core.errors_pb2 import ContainerError
from mlflow import MlflowClient

from rakuten_tasks.config import PhotoConfig, TextConfig, TrainingConfig, Weights
from rakuten_tasks.registry import runs, versions
from rakuten_tasks.tasks.start_run import open_run
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from tests.support.as_pod import start
from tests.support.catalogues import TINY, write_catalogue
from tests.support.photo_task import task_inputs
from workflows.training import train_classifier

MODEL = "failing"


def latest_run(store: MlflowClient, source: Path | str):
    return store.search_runs(["1"], f"tags.source = '{source}'", order_by=["attributes.start_time DESC"])[0]


def test_a_catalogue_that_is_not_there_is_told_in_mlflow(mlflow_store, local_runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalogue in"):
        train_classifier(source=str(tmp_path), config=TINY, model=MODEL)
    run = latest_run(mlflow_store, tmp_path)
    assert run.info.status == "FAILED"
    assert f"no catalogue in {tmp_path}: looked for X_train_update.csv" in run.data.tags["error"]


def test_a_training_that_fails_on_its_way_leaves_its_reason_and_the_champion_where_it_was(
    mlflow_store, local_runs, tmp_path, monkeypatch
):
    source = write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=1)
    train_classifier(source=str(source), config=TINY, model=MODEL)
    before = versions.aliases(mlflow_store, MODEL)
    config = dataclasses.replace(TINY, seed=7)

    def fails(*arguments: object) -> None:
        raise ValueError("the blending split is empty: give the catalogue more titles")

    monkeypatch.setattr("rakuten_tasks.tasks.fit_pool_weights.fit_pool", fails)
    with pytest.raises(ValueError, match="the blending split is empty"):
        train_classifier(source=str(source), config=config, model=MODEL)
    run = latest_run(mlflow_store, source)
    assert run.info.status == "FAILED"
    assert "the blending split is empty: give the catalogue more titles" in run.data.tags["error"]
    children = mlflow_store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert {child.info.run_name for child in children if child.info.status == "FAILED"} == {"pool_members"}
    assert versions.aliases(mlflow_store, MODEL) == before
    assert [version.number for version in versions.list_versions(mlflow_store, MODEL)] == [1]


@pytest.mark.parametrize(
    ("changed", "members", "said"),
    [
        (
            {"text": TextConfig(encoder="hf:{folder}/empty")},
            ["bag", "encoder"],
            "{folder}/empty has no config.json: put a",
        ),
        (
            {"text": TextConfig(encoder="hf:{folder}/gone")},
            ["encoder"],
            "there is no folder {folder}/gone: correct the path",
        ),
        (
            {"photo": PhotoConfig(weights=Weights.FILE, weights_file="{folder}/gone.pth")},
            ["bag", "photo"],
            "photo.weights_file {folder}/gone.pth does not exist: name a .pth or .safetensors of the backbone",
        ),
        ({"photo": PhotoConfig(backbone="torchvision:resnet0")}, ["photo"], "resnet0"),
        ({"text": TextConfig(encoder="none")}, ["encoder", "transformer"], "none of them has anything to do"),
    ],
    ids=["no model in the folder", "no folder", "no weights file", "unknown backbone", "nothing to train"],
)
def test_what_cannot_be_trained_is_told_in_a_sentence_before_anything_is_read(
    mlflow_store, local_runs, tmp_path, changed, members, said
):
    (tmp_path / "empty").mkdir()
    source = write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=1)
    text = json.dumps({name: part.to_dict() for name, part in changed.items()}).replace("{folder}", str(tmp_path))
    config = TrainingConfig.from_dict({**TINY.to_dict(), "members": members, **json.loads(text)})
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        train_classifier(source=str(source), config=config, model="cannot-be-trained")
    run = latest_run(mlflow_store, source)
    assert run.info.status == "FAILED"
    for told in (str(raised.value), run.data.tags["error"]):
        assert said.format(folder=tmp_path) in told
        assert "Traceback" not in told
    assert mlflow_store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'") == []


@pytest.mark.slow  # pods: processes of their own
@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("", ContainerError.NON_RECOVERABLE, "nowhere: looked for X_train_update.csv"),
        ("http://127.0.0.1:1", ContainerError.RECOVERABLE, "Flyte retries the task"),
    ],
    ids=["a wrong path is not tried again", "a tracking server that is away is"],
)
def test_a_pod_tells_flyte_whether_to_try_again(tmp_path, address, kind, said):
    inputs = {"source": "nowhere", "model": "", "config": TINY, "report": ""}
    store = f"sqlite:///{tmp_path}/mlflow.db"
    settings = {"MLFLOW_TRACKING_URI": address or store, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    error = start(open_run, inputs, tmp_path / "pod", **settings).error()
    assert error is not None, (tmp_path / "pod/log").read_text()
    assert error.kind == kind, error.message
    assert said in error.message


@pytest.mark.slow  # a pod
@pytest.mark.timeout(600)
def test_a_pod_that_is_terminated_leaves_a_checkpoint_and_its_run_as_killed(mlflow_store, tmp_path):
    parent = runs.start_parent("terminated", {}, {}, execution="terminated")
    settings = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "RAKUTEN_CHECKPOINT_SECONDS": "3600"}
    inputs = task_inputs(tmp_path / "inputs", parent, epochs=60)
    pod = start(train_network_on_gpus, inputs, tmp_path / "pod", **settings)
    child = None
    while pod.process.poll() is None and (child is None or not child.data.metrics):
        time.sleep(0.1)
        child = next(iter(mlflow_store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{parent}'")), None)
    pod.process.terminate()
    assert pod.process.wait() == 128 + 15
    assert pod.error() is None  # so Flyte starts it again
    assert list(pod.checkpoints.iterdir())
    child = mlflow_store.get_run(child.info.run_id)
    assert (child.info.status, child.data.tags["error"]) == ("KILLED", "broken off")
