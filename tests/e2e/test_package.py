"""What a cluster would be given, read from the protobufs that `pyflyte package` writes, for both profiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from flyteidl.admin.launch_plan_pb2 import ConcurrencyLimitBehavior, LaunchPlan
from flyteidl.core.literals_pb2 import BindingData, Literal
from flyteidl.core.tasks_pb2 import Resources, TaskTemplate
from flyteidl.core.workflow_pb2 import Node
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine

from rakuten_tasks.config import IngestConfig, PublicationConfig, TrainingConfig
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.code_version import code_version
from rakuten_tasks.runtime.schedules import SCHEDULES
from rakuten_tasks.tasks.check_drift import MonitoringPaths
from tests.support.pods.cluster import Cluster
from tests.support.pods.image import write_image
from tests.support.pods.package import IMAGE, Package, function, package
from tests.support.pods.unrun import UnrunPods
from tests.support.task_names import NETWORKS, NEVER_CACHED, short

pytestmark = pytest.mark.timeout(600)  # a process of its own for each profile

STORE, SOURCE, MLFLOW = "s3://shop/rakuten", "s3://shop/catalogue", "http://mlflow.example:5001"
LAUNCHED: dict[str, dict[str, Any]] = {  # without reproduce_version, which computes everything again
    "workflows.training.train_classifier": {"config": TrainingConfig()},
    "workflows.prediction.predict_catalogue": {"config": IngestConfig()},
    "workflows.etl.publish_catalogue": {"config": PublicationConfig(), "destination": "s3://shop/published"},
    "workflows.drift_watch.watch_drift": {
        "config": TrainingConfig(),
        "paths": MonitoringPaths("s3://shop/log", "s3://shop/history", "s3://shop/reports"),
        "kickoff": datetime(2026, 1, 2, tzinfo=UTC),
    },
}
GIBIBYTES = {"Mi": 1 / 1024, "Gi": 1.0}


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def packaged(profile: str, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp(profile)
    environment = {"RAKUTEN_STORE": STORE, "RAKUTEN_SOURCE": SOURCE, "MLFLOW_TRACKING_URI": MLFLOW}
    # of the machine that registers, and nothing to a pod
    environment |= {"AWS_ENDPOINT_URL": "http://localhost:9000", "RAKUTEN_VAR": str(folder)}
    code = write_image(folder / "image")
    return package(code, folder, RAKUTEN_POD_PROFILE=profile, RAKUTEN_CHECKPOINT_SECONDS="15", **environment)


@dataclass(frozen=True)
class ContainerResources:
    """Requests and limits of a task's container, as strings; resources that it does not name are missing."""

    requests: dict[str, str]
    limits: dict[str, str]

    @classmethod
    def of(cls, task: TaskTemplate) -> ContainerResources:
        parts = (task.container.resources.requests, task.container.resources.limits)
        return cls(*({Resources.ResourceName.Name(entry.name): entry.value for entry in part} for part in parts))


def name(task: TaskTemplate) -> str:
    return short(function(task))


def test_every_task_names_our_image_and_gets_the_addresses_that_pods_reach_and_no_other(packaged, profile):
    for task in packaged.tasks.values():
        assert task.container.image == IMAGE, task.id.name
        variables = {pair.key: pair.value for pair in task.container.env}
        assert variables.pop("FLYTE_INTERNAL_IMAGE") == IMAGE, task.id.name
        variables.pop("_F_SS_C", None)  # flytekit's own, for a dynamic task: how it is to register what it plans
        settings = {"RAKUTEN_CHECKPOINT_SECONDS": "15", "RAKUTEN_POD_PROFILE": profile}
        assert variables == {"MLFLOW_TRACKING_URI": MLFLOW, **settings}, task.id.name


def test_only_what_runs_networks_asks_for_a_gpu_and_nothing_does_on_the_cpu_profile(packaged, profile):
    for task in packaged.tasks.values():
        resources = ContainerResources.of(task)
        assert resources.requests == resources.limits, task.id.name
        gpu = "1" if profile == "gpu" and name(task) in NETWORKS else None
        assert resources.limits.get("GPU") == gpu, task.id.name


def test_every_task_asks_for_memory_and_a_training_for_as_much_as_it_needs(packaged):
    for task in packaged.tasks.values():
        memory = ContainerResources.of(task).limits["MEMORY"]
        enough = 16 if name(task) in NETWORKS else 2
        assert float(memory[:-2]) * GIBIBYTES[memory[-2:]] >= enough, task.id.name
        shared = task.extended_resources.shared_memory
        assert shared.size_limit == ("2Gi" if name(task) in NETWORKS else ""), task.id.name
        if shared.size_limit:
            assert shared.mount_path == "/dev/shm"


def test_every_task_is_tried_three_times_within_hours_and_networks_may_be_interrupted(packaged):
    hours = {name(task): task.metadata.timeout.seconds / 3600 for task in packaged.tasks.values()}
    assert {task: limit for task, limit in hours.items() if task in NETWORKS} == dict.fromkeys(NETWORKS, 12.0)
    assert set(hours.values()) == {1.0, 4.0, 12.0}
    for task in packaged.tasks.values():
        assert task.metadata.retries.retries == 2, task.id.name
        assert task.metadata.interruptible == (name(task) in NETWORKS), task.id.name


def test_what_is_cached_has_the_version_of_the_code_and_leaves_the_run_out_of_its_key(packaged):
    for task in packaged.tasks.values():
        cached = name(task) not in NEVER_CACHED
        assert task.metadata.discoverable == task.metadata.cache_serializable == cached, task.id.name
        assert task.metadata.discovery_version == (code_version() if cached else ""), task.id.name
        # what a planned task was given has lost its hash: these are cached by the input `key`
        planned = "key" in task.interface.inputs.variables
        others = {"shard", "shards", "position", "splits", "catalogue", "config"} if planned else set()
        ignored = ({"run"} | others) & set(task.interface.inputs.variables) if cached else set()
        assert set(task.metadata.cache_ignore_input_vars) == ignored, task.id.name


def test_no_part_of_a_dataclass_is_bound_into_what_is_cached(packaged):
    """Flyte writes the keys of such a part in another order each time, and so the cache is missed for nothing."""
    parts = {
        (workflow, node.id, bound.var)
        for workflow, template in packaged.workflows.items()
        for node in nodes_of(template.nodes)
        for bound in node.inputs
        if has_part(bound.binding) and not never_cached(packaged, node)
    }
    assert parts == set()
    assert has_part(bound_to(packaged, "workflows.training.train_classifier", "register", "config"))


def nodes_of(nodes: Iterable[Node]) -> Iterator[Node]:
    """These, and those that a conditional may choose."""
    for node in nodes:
        if node.WhichOneof("target") != "branch_node":
            yield node
            continue
        branch = node.branch_node.if_else
        yield from nodes_of([branch.case.then_node, *(block.then_node for block in branch.other)])
        yield from nodes_of([branch.else_node] if branch.HasField("else_node") else [])


def has_part(data: BindingData) -> bool:
    """Whether it, or an item of a list or dict of bindings, is an attribute of another value."""
    items = [*data.collection.bindings, *data.map.bindings.values()]
    return bool(data.promise.attr_path) or any(has_part(item) for item in items)


def bound_to(packaged: Package, workflow: str, task: str, variable: str) -> BindingData:
    (data,) = (
        bound.binding
        for node in packaged.workflows[workflow].nodes
        if node.task_node.reference_id.name.endswith(f".{task}")
        for bound in node.inputs
        if bound.var == variable
    )
    return data


def never_cached(packaged: Package, node: Node) -> bool:
    """Whether it is a task that always runs; a workflow in a workflow may hand on to any task."""
    mapped = node.array_node.node if node.HasField("array_node") else node
    task = packaged.tasks.get(mapped.task_node.reference_id.name)
    return task is not None and not task.metadata.discoverable


@pytest.mark.parametrize("plan", LAUNCHED)
def test_of_two_equal_runs_the_second_finds_every_cached_task_in_the_cache(packaged, plan):
    """For ten orders of the keys in what a user sends and Flyte encodes again; the tasks themselves do not run."""
    types = {name: type(value) for name, value in LAUNCHED[plan].items()}
    inputs = TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), LAUNCHED[plan], types)
    cluster = Cluster(packaged, UnrunPods())
    executions = [f"run{turn}" for turn in range(11)]
    for execution in executions:
        cluster.execute(plan, dict(inputs.to_flyte_idl().literals), execution)
    again = {ran.task for execution in executions[1:] for ran in cluster.of(execution) if ran.pod}
    assert {short(task) for task in again} <= NEVER_CACHED
    assert any(ran.pod is None for ran in cluster.of("run1"))


def test_map_tasks_work_on_so_many_shards_at_once(packaged):
    nodes = [node for workflow in packaged.workflows.values() for node in workflow.nodes]
    mapped = [node.array_node for node in nodes if node.WhichOneof("target") == "array_node"]
    assert len(mapped) == 1  # of predictions; those of a training are planned when it runs
    assert {(node.parallelism, node.min_success_ratio) for node in mapped} == {(pods.CONCURRENCY, 1.0)}


def plans(packaged: Package) -> dict[str, LaunchPlan]:
    """Those with names of their own; every workflow has one named like itself too."""
    return {name: plan for name, plan in packaged.plans.items() if name not in packaged.workflows}


def plain(literal: Literal) -> object:
    scalar = literal.scalar
    if scalar.WhichOneof("value") == "binary":
        return msgpack.loads(scalar.binary.value)
    return getattr(scalar.primitive, scalar.primitive.WhichOneof("value"))


def inputs(plan: LaunchPlan) -> tuple[dict, dict]:
    """Values that may be replaced, and fixed ones."""
    parameters = plan.spec.default_inputs.parameters
    replaceable = {name: plain(given.default) for name, given in parameters.items() if given.HasField("default")}
    return replaceable, {name: plain(literal) for name, literal in plan.spec.fixed_inputs.literals.items()}


def test_every_launch_plan_has_its_schedule_and_runs_once_at_a_time(packaged):
    when = {name: plan.spec.entity_metadata.schedule for name, plan in plans(packaged).items()}
    crons = {name: schedule.cron_schedule.schedule for name, schedule in when.items()}
    assert crons == SCHEDULES
    assert (crons["nightly_training"], crons["drift_watch"], crons["smoke"]) == (
        "0 2 * * *",
        "10 */6 * * *",
        "0 1 * * 1",
    )
    assert {name for name, schedule in when.items() if schedule.kickoff_time_input_arg} == {"drift_watch"}
    for name, plan in plans(packaged).items():
        assert plan.spec.concurrency_policy.max == 1, name
        assert plan.spec.concurrency_policy.behavior == ConcurrencyLimitBehavior.CONCURRENCY_LIMIT_BEHAVIOR_SKIP, name
        assert plan.spec.labels.values["project"] == "rakuten", name


def test_every_launch_plan_lacks_no_input_and_names_only_the_store_and_source_it_was_registered_with(packaged):
    for name, plan in plans(packaged).items():
        replaceable, fixed = inputs(plan)
        kickoff = {plan.spec.entity_metadata.schedule.kickoff_time_input_arg} - {""}
        workflow = packaged.workflows[plan.spec.workflow_id.name]
        assert set(workflow.interface.inputs.variables) == {*replaceable, *fixed, *kickoff}, name
    given = {name: inputs(plan) for name, plan in plans(packaged).items()}
    assert given["nightly_training"][0]["source"] == given["drift_watch"][0]["source"] == SOURCE
    assert given["nightly_training"][1] == {"report": f"{STORE}/reports/nightly.json"}
    assert given["drift_watch"][1] == {
        "hours": 6.0,
        "paths": {
            "log": f"{STORE}/prediction_log",
            "history": f"{STORE}/drift/history",
            "reports": f"{STORE}/drift/reports",
            "open_hours": "",
        },
    }
    assert given["smoke"][1] == {"source": "sample", "model": "rakuten-classifier-smoke", "report": ""}


def test_no_default_of_a_workflow_is_a_folder(packaged):
    for name, plan in packaged.plans.items():
        for variable, value in {**inputs(plan)[0], **inputs(plan)[1]}.items():
            if isinstance(value, str):
                address = value.startswith("s3://")
                assert address or value in ("", "sample") or "/" not in value, f"{name}: {variable}={value}"
