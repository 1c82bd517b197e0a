from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.condition import BranchNode
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.core.workflow import WorkflowBase

from rakuten_tasks.registry.runs import SILENCE
from rakuten_tasks.runtime import code_version
from rakuten_tasks.tasks import extract_features, train_members
from tests.support.task_names import NETWORKS, NEVER_CACHED, short
from workflows.drift_watch import watch_drift
from workflows.etl import publish_catalogue
from workflows.prediction import predict_catalogue
from workflows.training import reproduce_version, train_classifier

SHOWN = {
    "ingest",
    "ingest_without_run",
    "publish_version",
    "split",
    "fit_member",
    "train_network",
    "train_network_on_gpus",
    "pool_members",
    "evaluate_test",
    "register",
    "check_drift",
    "record_failed_training",
    "record_failed_reproduction",
}
# what train_members plans
PLANNED = (
    extract_features.fit_extractor,
    extract_features.prepare_extractor,
    extract_features.extract_features,
    extract_features.extract_features_on_gpu,
    *train_members.TASKS.values(),
)


def test_a_training_is_taken_for_lost_only_when_the_tasks_that_open_no_run_would_have_timed_out():
    """They are planned one after the other. Of the others each attempt opens one."""
    silent = (extract_features.prepare_extractor, extract_features.extract_features_on_gpu)
    assert sum(((task.metadata.retries + 1) * task.metadata.timeout for task in silent), timedelta()) == SILENCE
    assert max(task.metadata.timeout for task in (*entities(train_classifier), *PLANNED)) < SILENCE


def entities(workflow: WorkflowBase) -> Iterator[PythonFunctionTask]:
    nodes = [*workflow.nodes, *([workflow.failure_node] if workflow.failure_node else [])]
    for entity in (inner for node in nodes for inner in branches(node.flyte_entity)):
        if isinstance(entity, WorkflowBase):
            yield from entities(entity)
        else:
            task = entity.python_function_task if isinstance(entity, ArrayNodeMapTask) else entity
            assert isinstance(task, PythonFunctionTask)
            yield task


def branches(entity: object) -> list[object]:
    """What a conditional may run; anything else is itself."""
    if not isinstance(entity, BranchNode):
        return [entity]
    block = entity._ifelse_block
    nodes = [block.case.then_node, *(case.then_node for case in block.other or []), block.else_node]
    return [node.flyte_entity for node in nodes]


WORKFLOWS = (train_classifier, reproduce_version, predict_catalogue, watch_drift, publish_catalogue)
EVERY_TASK = {
    short(task.name): task for task in (*PLANNED, *(task for workflow in WORKFLOWS for task in entities(workflow)))
}


@pytest.fixture(params=EVERY_TASK)
def task(request: pytest.FixtureRequest) -> PythonFunctionTask:
    return EVERY_TASK[request.param]


def test_all_tasks_are_looked_at():
    assert len(EVERY_TASK) == 30
    planned = {short(found.name) for found in vars(train_members).values() if isinstance(found, PythonFunctionTask)}
    assert set(EVERY_TASK) >= NETWORKS | NEVER_CACHED | SHOWN | planned


def test_every_task_asks_for_memory_and_is_retried_within_a_time_limit(task):
    assert task.resources.requests.mem == task.resources.limits.mem is not None
    assert task.metadata.retries >= 1
    assert task.metadata.timeout.total_seconds() > 0


def test_the_tasks_that_run_networks_request_and_are_granted_a_gpu_and_no_other_does(task):
    gpu = "1" if short(task.name) in NETWORKS else None
    assert task.resources.requests.gpu == task.resources.limits.gpu == gpu
    assert bool(task.metadata.interruptible) == (gpu is not None)


def test_what_depends_on_its_inputs_alone_is_cached_whatever_run_asks_and_nothing_else(task):
    cached = short(task.name) not in NEVER_CACHED
    assert task.metadata.cache == task.metadata.cache_serialize == cached
    inputs = task.python_interface.inputs
    # of what a planned task was given only what its `key` holds counts
    planned = {"shard", "shards", "position", "splits", "catalogue", "config"} if "key" in inputs else set()
    ignored = ({"run"} | planned) & set(inputs)
    assert set(task.metadata.cache_ignore_input_vars) == (ignored if cached else set())


def test_the_stages_that_show_something_have_a_deck(task):
    assert task.enable_deck == (short(task.name) in SHOWN)


@pytest.mark.parametrize(
    ("edited", "recomputed"),
    [
        ("reports/templates/page.css", False),
        ("reports/evaluation_deck.py", False),
        ("dashboard/queries.py", False),
        ("registry/gate.py", False),
        ("models/pool.py", True),
        ("config.py", True),
        ("config_base.py", True),
        ("preprocessing/text.py", True),
        ("data/sample/words.yaml", True),
        ("tasks/extract_features.py", True),
    ],
)
def test_what_only_shows_or_stores_results_is_no_part_of_the_key_of_the_cache(edited, recomputed, tmp_path):
    package = Path(code_version.__file__).parents[1]
    copy = Path(shutil.copytree(package, tmp_path / "rakuten_tasks"))
    before = code_version.hash_code(copy)
    assert before == code_version.code_version()
    with (copy / edited).open("a") as file:
        file.write("\n")
    assert (code_version.hash_code(copy) != before) == recomputed


def test_the_key_of_the_cache_changes_with_the_code_and_the_libraries(monkeypatch):
    code_version.code_version.cache_clear()
    before = code_version.code_version()
    code_version.code_version.cache_clear()
    monkeypatch.setattr(code_version, "LIBRARIES", (*code_version.LIBRARIES, "click"))
    assert code_version.code_version() != before
    code_version.code_version.cache_clear()
    monkeypatch.undo()
    assert code_version.code_version() == before


def test_where_a_library_is_not_installed_its_pin_counts(tmp_path):
    """As on a machine that only registers: the pods' image installs the pins."""
    pins = tmp_path / "constraints.txt"
    pins.write_text("not-installed-extra==2\nnot-installed==1.2+cpu ; python_version > '3'\n")
    assert code_version.library_version("not-installed", pins) == "1.2+cpu"
    assert code_version.library_version("click", pins) == version("click")
    with pytest.raises(PackageNotFoundError):
        code_version.library_version("neither", pins)
