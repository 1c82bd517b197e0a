from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flytekit import Cache, dynamic, task
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.context_manager import ExecutionState, FlyteContextManager

from rakuten_tasks.runtime import local_cache
from rakuten_tasks.runtime.map_items import map_items
from rakuten_tasks.storage.paths import cache_folder

calls: list[int] = []


@task(cache=Cache(version="1", ignored_inputs=("position",)))
def multiply(number: int, position: int, factor: int) -> int:
    calls.append(number)
    return number * factor


@dynamic
def multiply_each(numbers: list[int]) -> list[int]:
    return map_items(multiply, {"number": numbers, "position": list(range(len(numbers)))}, factor=10)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Iterator[None]:
    local_cache.use(tmp_path / "cache")
    calls.clear()
    yield
    local_cache.use(cache_folder())


def test_locally_one_new_item_computes_no_other_again():
    assert multiply_each(numbers=[1, 2]) == [10, 20]
    assert multiply_each(numbers=[3, 2, 1]) == [30, 20, 10]
    assert calls == [1, 2, 3]
    assert multiply_each(numbers=[]) == []


def test_on_a_cluster_the_items_are_one_map_task():
    context = FlyteContextManager.current_context()
    settings = SerializationSettings(ImageConfig.auto(img_name="image:tag"), version="1")
    pod = context.new_execution_state().with_params(mode=ExecutionState.Mode.TASK_EXECUTION)
    with FlyteContextManager.with_context(
        context.with_serialization_settings(settings).with_execution_state(pod)
    ) as inside:
        plan = multiply_each.compile_into_workflow(inside, multiply_each.task_function, numbers=[1, 2, 3])
    (node,) = plan.nodes
    assert node.array_node is not None
    assert calls == []
