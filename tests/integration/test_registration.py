"""Registration, cut short at every single request to MLflow and tried again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from mlflow import MlflowClient

from rakuten_tasks.config import GateConfig, TrainingConfig
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.models import bundle
from rakuten_tasks.registry import audit, runs, versions
from rakuten_tasks.registry.promotion import is_committed
from rakuten_tasks.tasks.register_version import register
from rakuten_tasks.tasks.types import RegisteredVersion, Run, Shard
from tests.support.catalogues import TINY, write_catalogue
from tests.support.task_names import task_function
from workflows.training import train_classifier

CHANGES = (
    "create_run", "set_tag", "set_terminated", "log_batch", "log_dict", "log_artifact", "create_registered_model",
    "create_logged_model", "log_model_artifacts", "finalize_logged_model", "create_model_version",
    "set_model_version_tag", "update_model_version", "set_registered_model_alias", "set_registered_model_tag",
    "delete_registered_model_alias", "delete_logged_model", "delete_model_version_tag",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(
    mlflow_store: MlflowClient, local_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> RegisteredVersion:
    source = write_catalogue(tmp_path_factory.mktemp("registration") / "catalogue", labelled=45, unlabelled=1)
    return train_classifier(source=str(source), config=TINY, model="registration")


@pytest.fixture(scope="module")
def made(
    trained: RegisteredVersion, mlflow_store: MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What register gets, but for the run."""
    out = tmp_path_factory.mktemp("bundle")
    folder = versions.fetch(mlflow_store, "registration", str(trained.version), out)
    source = bundle.read_manifest(folder).lineage.catalogue
    shards = ingest(source, out / "shards", TINY.ingest).labelled
    return {
        "folder": FlyteDirectory(str(folder)),
        "shards": [
            Shard(FlyteFile(str(shard.text)), FlyteFile(str(shard.photos)), shard.rows, shard.sha256)
            for shard in shards
        ],
        "config": GateConfig(),
        "seed": 0,
    }


def cut_short(monkeypatch: pytest.MonkeyPatch, at: int, before: bool) -> list[str]:
    """Make the change number `at` to the store fail: before it is done, or after it, its answer lost."""
    seen: list[str] = []

    def failing(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            fails = len(seen) == at
            if fails and before:
                raise ConnectionError("the server is away")
            answer = change(*args, **kwargs)
            if fails:
                raise ConnectionError("the answer was lost")
            return answer

        return call

    for name in CHANGES:
        monkeypatch.setattr(MlflowClient, name, failing(name, getattr(MlflowClient, name)))
    return seen


def training(made: dict[str, Any], model: str) -> dict[str, Any]:
    """A training of its own that comes to register."""
    return {**made, "run": Run(runs.start_parent(model, {}, {}, execution=model), model, "somewhere")}


def attempted(monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any], at: int, before: bool) -> bool:
    """Register, with change number `at` cut short. Whether there is a change of that number."""
    with monkeypatch.context() as patch:
        changes = cut_short(patch, at, before)
        try:
            task_function(register)(**inputs)
        except FlyteRecoverableException:
            return True
        return len(changes) >= at


@pytest.mark.parametrize("before", [True, False], ids=["not done", "answer lost"])
def test_cut_short_at_any_request_and_tried_again_it_registers_once_and_leaves_nothing_half_done(
    made, mlflow_store, monkeypatch, before
):
    for at in range(1, 100):
        model = f"cut-{before}-{at}"
        inputs = training(made, model)
        if not attempted(monkeypatch, inputs, at, before):
            break
        registered = task_function(register)(**inputs)
        assert (registered.version, registered.alias) == (1, "champion")
        assert [v.number for v in versions.list_versions(mlflow_store, model)] == [1]
        assert versions.aliases(mlflow_store, model) == {"champion": 1, "best": 1}
        assert len(audit.history(mlflow_store, model)) == 1
        runs.finish_parent(registered.run_id)
        children = mlflow_store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{registered.run_id}'")
        assert {child.info.status for child in children} <= {"FINISHED", "FAILED", "KILLED"}
        models = mlflow_store.search_logged_models(["1"], filter_string=f"source_run_id = '{registered.run_id}'")
        assert [m.status.value for m in models] == ["READY"]
    assert at > 15


CUTS = ["create_logged_model", "create_model_version", "set_model_version_tag", "update_model_version"]


@pytest.mark.parametrize("cut", [*CUTS, "set_registered_model_alias", "set_registered_model_tag"])
def test_a_registration_that_is_given_up_is_withdrawn(made, mlflow_store, monkeypatch, cut):
    model = f"given-up-{cut}"
    inputs = training(made, model)
    with monkeypatch.context() as patch:
        whole = getattr(MlflowClient, cut)

        def lost(*args: Any, **kwargs: Any) -> Any:
            if cut != "set_model_version_tag":
                whole(*args, **kwargs)
            raise ConnectionError("killed here")

        patch.setattr(MlflowClient, cut, lost)
        with pytest.raises(FlyteRecoverableException):
            task_function(register)(**inputs)
    runs.fail("the pod was lost", model)
    assert versions.list_versions(mlflow_store, model) == []
    run_id = inputs["run"].run_id
    assert len(mlflow_store.search_logged_models(["1"], filter_string=f"source_run_id = '{run_id}'")) == 0
    assert mlflow_store.get_run(run_id).info.status == "FAILED"


def test_a_training_that_fails_after_its_version_was_registered_has_not_failed(made, mlflow_store):
    inputs = training(made, "report-fails")
    task_function(register)(**inputs)
    runs.fail("no room for the report", "report-fails")
    run = mlflow_store.get_run(inputs["run"].run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["error"] == "after its version was registered: no room for the report"
    assert versions.aliases(mlflow_store, "report-fails") == {"champion": 1, "best": 1}


@pytest.mark.parametrize("before", [True, False], ids=["not done", "answer lost"])
def test_given_up_at_any_request_it_leaves_versions_and_aliases_as_they_were(made, mlflow_store, monkeypatch, before):
    model = f"stays-{before}"
    inputs = training(made, model)
    task_function(register)(**inputs)
    runs.finish_parent(inputs["run"].run_id)

    def registry_state() -> tuple[dict[str, int], list[int]]:
        return versions.aliases(mlflow_store, model), [v.number for v in versions.list_versions(mlflow_store, model)]

    given_up = 0
    for at in range(1, 100):
        was, inputs = registry_state(), training(made, model)
        if not attempted(monkeypatch, inputs, at, before):
            break
        runs.fail("the pod was lost", model)
        if is_committed(mlflow_store, inputs["run"].run_id):  # only the last answer was lost: all of it stands
            assert registry_state()[0]["champion"] == registry_state()[1][-1]
        else:
            given_up += 1
            assert registry_state() == was
    assert given_up > 10  # what the log of the task alone lacks is not given up


@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_bundle_that_does_not_answer_as_it_was_evaluated_is_not_registered(made, mlflow_store, tmp_path, harm):
    folder = tmp_path / "bundle"
    shutil.copytree(made["folder"].path, folder)
    if harm == "cut":
        weights = folder / "members" / "bag" / "linear.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        test = pd.read_parquet(folder / bundle.TEST)
        test.assign(predicted=test["predicted"].map({10: 1300, 1300: 2583, 2583: 10})).to_parquet(folder / bundle.TEST)
    inputs = training(made, f"harmed-{harm}") | {"folder": FlyteDirectory(str(folder))}
    expected = {"cut": "deserializing", "other": "answers 100% of 5 test rows otherwise than it was evaluated"}
    with pytest.raises(Exception, match=expected[harm]):
        task_function(register)(**inputs)
    assert versions.aliases(mlflow_store, f"harmed-{harm}") == {}


def test_a_version_leads_in_one_hop_to_all_that_it_was_made_from(trained, mlflow_store):
    tags = versions.tags(mlflow_store, "registration", trained.version)
    lineage = bundle.read_manifest(versions.fetch(mlflow_store, "registration", str(trained.version))).lineage
    assert tags["run_id"] == trained.run_id
    assert tags["catalogue_hash"] == lineage.catalogue_hash
    assert tags["git_commit"] == lineage.git_commit != ""
    run = mlflow_store.get_run(trained.run_id)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    for key, file in {"decks": "ingest.html", "configuration": "", "quarantine": ""}.items():
        path = artifacts / tags[key].removeprefix(f"runs:/{trained.run_id}/") / file
        assert path.is_file(), key
    decks = {path.name for path in (artifacts / "decks").iterdir()}
    fits = ("fit_bag", "fit_lstm", "fit_vgg16")
    assert decks == {f"{n}.html" for n in ("ingest", "split", *fits, "pool", "evaluate", "register")}
    configuration = json.loads((artifacts / "configuration.json").read_text())
    assert TrainingConfig.from_dict(configuration) == TINY
    assert run.data.metrics["pool_weighted_f1"] >= 0
