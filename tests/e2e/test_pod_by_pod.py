"""Every task of every workflow, run as its pod would be: see tests/support/pods.

One story on one small cluster: a training that is disturbed, predictions, a reproduction, three windows of drift, a
published catalogue, and a training that cannot succeed. Inputs, outputs, catalogue, log and reports lie in an object
store, models in an MLflow server, and each pod's disk is deleted as soon as it has ended.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from flyteidl.core.literals_pb2 import Literal
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.core.workflow import WorkflowBase
from flytekit.models.literals import Literal as LiteralModel
from mlflow import MlflowClient

from rakuten_tasks.config import (
    BagConfig,
    IngestConfig,
    LSTMConfig,
    PhotoConfig,
    PublicationConfig,
    SplitConfig,
    TrainingConfig,
    Weights,
)
from rakuten_tasks.data.versions.manifest import find_version
from rakuten_tasks.evaluation.metrics import Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.monitoring.columns import SCHEMA
from rakuten_tasks.monitoring.decision import Outcome
from rakuten_tasks.monitoring.history import DriftCheck, load_checks
from rakuten_tasks.monitoring.policy import Action
from rakuten_tasks.registry import tracking, versions
from rakuten_tasks.tasks.check_drift import DRIFT, MonitoringPaths, check_drift
from rakuten_tasks.tasks.predict_products import Predictions
from rakuten_tasks.tasks.publish import Publication
from rakuten_tasks.tasks.reproduce import Comparison
from rakuten_tasks.tasks.types import RegisteredVersion
from tests.support.catalogues import write_catalogue
from tests.support.pods.cluster import Cluster, ExecutionError, Fault
from tests.support.pods.image import write_image
from tests.support.pods.package import package
from tests.support.pods.pod import PROGRAMS, Machine
from tests.support.pods.services import USER, mlflow_server, s3_bucket
from workflows.drift_watch import watch_drift
from workflows.etl import publish_catalogue
from workflows.prediction import predict_catalogue
from workflows.training import reproduce_version, train_classifier

pytestmark = pytest.mark.timeout(1800)

MLFLOW = "http://mlflow.example:5001"  # as pods are told; nothing outside of the cluster knows the name
MODEL, BESIDE = "pod-by-pod", "pyflyte-run"
# More than 300 validation rows, or drift is not decided; three shards
CONFIG = TrainingConfig(
    ingest=IngestConfig(rows_per_shard=240),
    split=SplitConfig(validation=0.3, blending=0.3, test=0.1),
    bag=BagConfig(ngram_bits=12),
    lstm=LSTMConfig(epochs=2),
    photo=PhotoConfig(weights=Weights.RANDOM, image_size=32, epochs=3),
)
PRODUCTS, TO_PREDICT = 560, 300
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SIX = timedelta(hours=6)
TRAIN, PREDICT = "workflows.training.train_classifier", "workflows.prediction.predict_catalogue"


@dataclass
class Story:
    """The cluster, its store, and what is on the pods' side of it."""

    cluster: Cluster
    client: MlflowClient
    store: str
    source: str

    def run(self, plan: str, workflow: WorkflowBase, execution: str, *faults: Fault, **inputs: Any) -> dict:
        """Execute a launch plan with these inputs of its workflow."""
        context = FlyteContextManager.current_context()
        types = {name: workflow.python_interface.inputs[name] for name in inputs}
        literals = TypeEngine.dict_to_literal_map(context, inputs, types).to_flyte_idl().literals
        return self.cluster.execute(plan, dict(literals), execution, faults)

    def bundle(self, model: str, version: int) -> Path:
        return versions.fetch(self.client, model, str(version))


def value(literal: Literal, of: type) -> Any:
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), LiteralModel.from_flyte_idl(literal), of)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, mlflow_store: MlflowClient) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    (folder / "mlflow").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        s3_bucket(patch) as (store, endpoint),
        mlflow_server(folder / "mlflow") as server,
    ):
        code = write_image(folder / "image")
        packaged = package(
            code,
            folder / "package",
            RAKUTEN_POD_PROFILE="cpu",
            MLFLOW_TRACKING_URI=MLFLOW,
            RAKUTEN_CHECKPOINT_SECONDS="1",
            RAKUTEN_STORE=f"{store}/rakuten",
        )
        # as the demo cluster names its store to its pods
        names = ("FLYTE_AWS_ENDPOINT", "FLYTE_AWS_ACCESS_KEY_ID", "FLYTE_AWS_SECRET_ACCESS_KEY")
        given = {**dict(zip(names, (endpoint, USER, USER), strict=True)), "FLYTE_AWS_S3_ADDRESSING_STYLE": "path"}
        machine = Machine(code, folder / "disks", f"{store}/flyte", given, {MLFLOW: server})
        source = write_catalogue(folder / "catalogue", labelled=PRODUCTS, unlabelled=TO_PREDICT)
        fsspec.filesystem("s3").put(str(source), f"{store}/catalogue", recursive=True)
        patch.setenv("MLFLOW_TRACKING_URI", server)
        yield Story(Cluster(packaged, machine), tracking.connect(), store, f"{store}/catalogue")
    tracking.connect()  # the session's store is MLflow's process-wide address again


@pytest.fixture(scope="module")
def trained(story: Story) -> RegisteredVersion:
    """By a training whose first pod finds no tracking server, and whose photo network's pod is killed half-way."""
    faults = [
        Fault(
            "rakuten_tasks.tasks.start_run.open_run",
            environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        ),
        Fault("rakuten_tasks.tasks.train_members.train_network_on_gpus", kill_when=bool),
    ]
    outputs = story.run(TRAIN, train_classifier, "training", *faults, source=story.source, config=CONFIG, model=MODEL)
    return value(outputs["o0"], RegisteredVersion)


def test_a_training_pod_by_pod_registers_a_champion_equal_to_that_of_pyflyte_run(story, trained, tmp_path):
    assert (trained.model, trained.version, trained.alias) == (MODEL, 1, "champion")
    assert versions.champion_version(story.client, MODEL) == 1
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    inputs = ["--source", story.source, "--config", str(tmp_path / "config.json"), "--model", BESIDE]
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "RAKUTEN_VAR": str(tmp_path / "var")}
    done = subprocess.run(
        [PROGRAMS / "pyflyte", "run", "workflows/training.py", "train_classifier", *inputs],
        cwd=story.cluster.machine.code, env={**os.environ, **places, "PYTHONPATH": str(story.cluster.machine.code)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pods, here = story.bundle(MODEL, 1), story.bundle(BESIDE, 1)
    linear = [f"members/{name}/linear.safetensors" for name in ("bag", "encoder", "bag_encoder")]
    networks = ["members/lstm/lstm.safetensors", "members/vgg16/vgg16.safetensors", "extractors/tokens/tokenizer.json"]
    same = [*linear, *networks, bundle.TITLE_SPLITS, bundle.TEST]
    assert {name for name in same if (pods / name).read_bytes() != (here / name).read_bytes()} == set()
    assert bundle.read_manifest(pods).pool == bundle.read_manifest(here).pool
    evaluations = [Evaluation.load(folder / bundle.EVALUATION) for folder in (pods, here)]
    assert evaluations[0] == evaluations[1]


def test_what_was_registered_says_which_execution_and_image_made_it(story, trained):
    lineage = bundle.read_manifest(story.bundle(MODEL, 1)).lineage
    assert (lineage.execution, lineage.image) == ("training", "registry.example/rakuten-task:1")
    assert story.client.get_run(trained.run_id).info.status == "FINISHED"


def test_the_items_of_a_map_task_have_a_pod_each(story, trained):
    # n-grams, tokens and pixels; vectors
    for task, extractors in (("extract_features", 3), ("extract_features_on_gpu", 1)):
        items = sorted(ran.item for ran in story.cluster.of("training", task))
        assert items == sorted([0, 1, 2] * extractors)


def test_a_training_pod_that_is_killed_is_gone_on_with_from_its_checkpoint(story, trained):
    killed, last = story.cluster.of("training", "train_network_on_gpus")
    assert (killed.pod.returncode, last.attempt) == (-9, 1)
    assert "continuing from a checkpoint" in last.pod.log  # the weights are compared with pyflyte run's above
    assert "continuing from a checkpoint" not in killed.pod.log


def test_a_recoverable_error_is_tried_again(story, trained):
    first, second = story.cluster.of("training", "open_run")
    assert "Flyte retries the task" in first.pod.error.error.message
    assert second.pod.error is None


@pytest.fixture(scope="module")
def predicted(story: Story, trained: RegisteredVersion) -> Predictions:
    out = f"{story.store}/predictions"
    inputs = {"source": story.source, "config": CONFIG.ingest, "model": MODEL, "output": out}
    return value(story.run(PREDICT, predict_catalogue, "prediction", **inputs)["o0"], Predictions)


def test_predictions_pod_by_pod_are_those_of_this_process(story, predicted, local_runs, tmp_path):
    predict_catalogue(source=story.source, config=CONFIG.ingest, model=MODEL, output=str(tmp_path))
    expected = (tmp_path / "submission.csv").read_text()
    assert expected.count("\n") == 1 + TO_PREDICT
    assert Path(predicted.submission.download()).read_text() == expected
    with fsspec.open(f"{story.store}/predictions/submission.csv", "r") as file:
        assert file.read() == expected
    assert sorted(ran.item for ran in story.cluster.of("prediction", "predict_shard")) == [0, 1]


def test_a_version_is_reproduced_by_computing_it_again(story, trained):
    """In another execution, which finds everything in the cache and does not use it."""
    plan = "workflows.training.reproduce_version"
    outputs = story.run(plan, reproduce_version, "again", version=1, model=MODEL)
    comparison = value(outputs["o0"], Comparison)
    assert (comparison.same_weights, comparison.same_predictions, comparison.differences) == (True, 1.0, [])
    computed = [function(ran.task) for ran in story.cluster.of("again") if ran.pod]
    assert len(computed) == len(story.cluster.of("again"))
    assert {"ingest", "extract_features", "fit_member", "train_network", "pool_members", "compare"} <= set(computed)


def function(task: str) -> str:
    return task.rpartition(".")[2]


def log_hour(story: Story, version: int, end: datetime, **changed: Any) -> None:
    """The hour before `end` of the prediction log: 500 answers as the champion gave in validation, some changed."""
    reference = pd.read_parquet(story.bundle(MODEL, version) / bundle.REFERENCE)
    drawn = reference.sample(500, replace=True, random_state=end.hour, ignore_index=True).assign(**changed)
    answers = drawn[[name for name in drawn if name in SCHEMA.names and name != "designation"]].assign(
        time=end - timedelta(minutes=55),
        kind="prediction",
        request_id=[f"{i:032x}" for i in range(len(drawn))],
        model=MODEL,
        version=str(version),
    )
    hour = end - timedelta(hours=1)
    answers.to_parquet(f"{story.store}/rakuten/prediction_log/{hour:%Y-%m-%d}/{hour:%H}.worker.parquet", index=False)


def test_drift_is_watched_pod_by_pod_until_it_is_trained_on_and_decided_as_in_this_process(story, trained):
    """By the launch plan, with the paths that it was registered with: quiet, dark, dark with new labels."""
    root = f"{story.store}/rakuten"
    beside = MonitoringPaths(f"{root}/prediction_log", f"{root}/beside/history", f"{root}/beside/reports")
    given = {"source": story.source, "model": MODEL, "rest_hours": 72.0}

    def watched(number: int, **changed: Any) -> DriftCheck:
        kickoff = NOON + number * SIX
        log_hour(story, 1, kickoff, **changed)
        here, _ = check_drift(kickoff=kickoff, hours=6.0, paths=beside, **given)
        outputs = story.run("drift_watch", watch_drift, f"watch{number}", kickoff=kickoff, config=CONFIG, **given)
        look = value(outputs["o0"], DriftCheck)
        assert look.decision == here.decision
        assert replace(look, outcome="") == here
        return look

    quiet = watched(0)
    assert (quiet.decision.outcome, quiet.action) == (Outcome.NO_DRIFT, Action.NOTHING.value)

    def darker(rows: pd.DataFrame) -> pd.Series:
        return rows["brightness"] - 0.2

    first = watched(1, brightness=darker)
    assert (first.decision.groups, first.action) == (["photo"], Action.WAIT.value)
    assert first.decision.reason in story.client.get_model_version(MODEL, "1").tags[DRIFT]
    labels = f"{story.source}/Y_train_CVw08PX.csv"
    with fsspec.open(labels, "r") as file:
        changed = file.read().replace(f"{PRODUCTS - 1},1300", f"{PRODUCTS - 1},10")
    with fsspec.open(labels, "w") as file:
        file.write(changed)
    second = watched(2, brightness=darker)
    assert second.action == Action.RETRAIN.value
    assert second.outcome.startswith("version 2, ")
    assert versions.latest_version(story.client, MODEL) == 2
    assert [look.action for look in load_checks(f"{root}/drift/history", MODEL)] == [
        look.action for look in (quiet, first, second)
    ]


def test_a_cached_task_runs_again_once_its_input_holds_something_else(story):
    """The second training's: one label of the last shard was changed."""
    ingest = story.cluster.of("watch2", "ingest")
    assert [ran.pod is not None for ran in ingest] == [True]
    items = {(ran.item, ran.pod is not None) for ran in story.cluster.of("watch2", "extract_features")}
    assert items == {(0, False), (1, False), (2, True)}
    assert [ran.pod is not None for ran in story.cluster.of("watch2", "train_network_on_gpus")] == [True]


def test_a_catalogue_is_published_pod_by_pod_as_by_this_process(story, local_runs, tmp_path):
    """By the weekly plan, to the place that it was registered with."""
    config = PublicationConfig(ingest=CONFIG.ingest)
    outputs = story.run("weekly_etl", publish_catalogue, "etl", source=story.source, config=config)
    published = value(outputs["o0"], Publication)
    assert published.address == f"{story.store}/rakuten/catalogue/versions/000001.json"
    assert (published.version, published.new, published.labelled) == (1, True, PRODUCTS)
    here = publish_catalogue(destination=str(tmp_path / "published"), source=story.source, config=config)
    contents = [find_version(address).manifest.content for address in (published.address, here.address)]
    assert contents[0] == contents[1]


def test_a_user_error_stops_with_its_message_after_one_attempt_and_mlflow_is_told(story):
    nowhere = f"{story.store}/nowhere"
    with pytest.raises(ExecutionError, match=r"looked for X_train_update\.csv"):
        story.run(TRAIN, train_classifier, "broken", source=nowhere, config=CONFIG, model=MODEL)
    assert [function(ran.task) for ran in story.cluster.of("broken")] == ["open_run", "record_failed_training"]
    (run,) = story.client.search_runs([tracking.experiment_id(story.client)], f"tags.source = '{nowhere}'")
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith(f"FileNotFoundError: no catalogue in {nowhere}")


def test_a_reproduction_that_fails_is_told_to_mlflow_too(story):
    with pytest.raises(ExecutionError, match="99"):
        story.run("workflows.training.reproduce_version", reproduce_version, "no-such", version=99, model=MODEL)
    assert [function(ran.task) for ran in story.cluster.of("no-such")] == ["reopen", "record_failed_reproduction"]


def test_every_task_of_every_workflow_was_run_as_a_pod_and_left_nothing_where_it_ran(story):
    pods = [ran for ran in story.cluster.ran if ran.pod]
    assert {ran.task for ran in pods} == story.cluster.package.functions()
    assert story.cluster.walked == set(story.cluster.package.workflows)
    assert {function(ran.task): ran.pod.left_behind for ran in pods if ran.pod.left_behind} == {}
    assert list(story.cluster.machine.work.iterdir()) == []
    print(f"{len(pods)} pods, {sum(ran.pod.seconds for ran in pods):.0f} s")
