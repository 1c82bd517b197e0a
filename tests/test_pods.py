import pytest
from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.python_function_task import PythonFunctionTask

from workflows.prediction import predict_catalogue
from workflows.training import train_classifier

TRAINING = {"train_lstm", "train_vgg16", "photo_features"}


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
def test_training_and_photo_features_request_and_are_granted_a_gpu(task):
    if task.name.rsplit(".", 1)[-1] in TRAINING:
        assert task.resources.requests.gpu == task.resources.limits.gpu == "1"
        assert task.metadata.interruptible
