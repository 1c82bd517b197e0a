"""Map of a cached task over lists, inside of a dynamic task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flytekit import FlyteContextManager, map_task
from flytekit.core.python_function_task import PythonFunctionTask

from rakuten_tasks.runtime import pods


def map_items(task: PythonFunctionTask, items: Mapping[str, Sequence[Any]], **inputs: Any) -> Any:
    """Run the task for each position of the lists `items`, with the same other inputs. -> a list of its outputs

    A cluster caches each item. Local runs of flytekit cache a map task as a whole, so that one new item would compute
    all of them again: there each item is a task of its own.
    """
    state = FlyteContextManager.current_context().execution_state
    if state is None or not state.is_local_execution():
        return map_task(partial(task, **inputs), concurrency=pods.CONCURRENCY)(**items)
    return [task(**inputs, **dict(zip(items, values, strict=True))) for values in zip(*items.values(), strict=True)]
