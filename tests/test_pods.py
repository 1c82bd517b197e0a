import pytest
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.python_function_task import PythonFunctionTask

from workflows.prediction import predict_catalogue
from workflows.training import train_classifier

NETWORKS = {
    "train_lstm",
    "train_vgg16",
    "photo_features",
    "fuse",
    "evaluate_test",
    "register",
    "predict_shard",
}


def every_task() -> list:
    return [*tasks()]


def tasks():
    for workflow in (train_classifier, predict_catalogue):
        for node in workflow.nodes:
            entity = node.flyte_entity
            task = entity.python_function_task if isinstance(entity, ArrayNodeMapTask) else entity
            assert isinstance(task, PythonFunctionTask)
            yield pytest.param(task, id=task.name.rsplit(".", 1)[-1])


@pytest.mark.parametrize("task", every_task())
def test_every_task_asks_for_memory_and_is_retried_within_a_time_limit(task):
    assert task.resources.requests.mem == task.resources.limits.mem is not None
    assert task.metadata.retries >= 1
    assert task.metadata.timeout.total_seconds() > 0


@pytest.mark.parametrize("task", every_task())
def test_the_tasks_that_run_networks_request_and_are_granted_a_gpu_and_no_other_does(task):
    gpu = "1" if task.name.rsplit(".", 1)[-1] in NETWORKS else None
    assert task.resources.requests.gpu == task.resources.limits.gpu == gpu
    assert bool(task.metadata.interruptible) == (gpu is not None)
