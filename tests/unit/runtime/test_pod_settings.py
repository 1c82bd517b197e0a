from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rakuten_tasks.runtime.pod_settings import PodSettings

ASK = """
import json
from rakuten_tasks.runtime import pods
from rakuten_tasks.tasks.train_members import train_network_on_gpus
from tests.support.as_pod import SETTINGS
from flytekit.tools.translator import get_serializable
from collections import OrderedDict
spec = get_serializable(OrderedDict(), SETTINGS, train_network_on_gpus).template
limits = {e.name: e.value for e in spec.container.resources.limits}
print(json.dumps({
    "type": spec.type,
    "custom": spec.custom,
    "limits": limits,
    "same": spec.container.resources.limits == spec.container.resources.requests,
    "environment": spec.container.env,
    "small": pods.SMALL["limits"].mem,
    "gpu": [pods.GPU["limits"].cpu, pods.GPU["limits"].gpu],
    "concurrency": pods.CONCURRENCY,
    "disk": [pod["limits"].ephemeral_storage for pod in (pods.SMALL, pods.CPU, pods.GPU)],
    "hours": [pod["timeout"].total_seconds() / 3600 for pod in (pods.SMALL, pods.CPU, pods.GPU, pods.PHOTO)],
}))
"""
CPU, GPU, MEMORY, DISK = 1, 2, 3, 5  # flyteidl's numbers of what a pod asks for


def registered(**settings: str) -> dict:
    """What a process with these settings in its environment would register."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAKUTEN_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment | settings, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def limits(found: dict) -> dict[int, str]:
    return {int(name): value for name, value in found["limits"].items()}


def test_without_settings_one_pod_trains_on_one_gpu() -> None:
    found = registered()
    assert found["type"] == "python-task"
    assert limits(found) == {CPU: "4", GPU: "1", MEMORY: "16Gi", DISK: "40Gi"}
    assert (found["small"], found["gpu"], found["concurrency"]) == ("2Gi", ["4", "1"], 16)
    assert found["same"]


def test_one_gpus_pod_is_as_large_as_the_others_unless_it_is_told_otherwise() -> None:
    found = registered(RAKUTEN_GPU_MEMORY="8Gi", RAKUTEN_PHOTO_CORES="6")
    assert limits(found) == {CPU: "6", GPU: "1", MEMORY: "8Gi", DISK: "40Gi"}


def test_on_several_nodes_each_gets_its_gpus_and_every_pod_knows_how_many_there_are() -> None:
    found = registered(RAKUTEN_PHOTO_GPUS="4", RAKUTEN_PHOTO_NODES="2", RAKUTEN_PHOTO_MEMORY="128Gi")
    assert found["type"] == "pytorch"
    assert found["custom"]["elasticConfig"] == {
        "rdzvBackend": "c10d", "minReplicas": 2, "maxReplicas": 2, "nprocPerNode": 4
    }  # fmt: skip
    assert found["custom"]["workerReplicas"]["replicas"] == 2
    assert limits(found) == {CPU: "16", GPU: "4", MEMORY: "128Gi", DISK: "40Gi"}
    assert found["environment"]["RAKUTEN_PHOTO_GPUS"] == "4"
    assert found["environment"]["RAKUTEN_PHOTO_NODES"] == "2"
    assert found["gpu"] == ["4", "1"]


def test_several_gpus_of_one_node_need_no_training_operator() -> None:
    found = registered(RAKUTEN_PHOTO_GPUS="2")
    assert (found["type"], limits(found)[GPU]) == ("python-task", "2")


def test_without_gpus_as_many_processes_ask_for_processors_alone() -> None:
    found = registered(RAKUTEN_POD_PROFILE="cpu", RAKUTEN_PHOTO_GPUS="2")
    assert limits(found) == {CPU: "8", MEMORY: "32Gi", DISK: "40Gi"}


def test_sizes_and_concurrency_are_what_the_registering_environment_says() -> None:
    settings = {"GPU_MEMORY": "64Gi", "GPU_CORES": "7500m", "SMALL_MEMORY": "512Mi", "CONCURRENCY": "200"}
    settings |= {"PHOTO_DISK": "80Gi", "CPU_DISK": "100Gi", "CPU_HOURS": "0.5", "GPU_HOURS": "24"}
    found = registered(**{f"RAKUTEN_{name}": value for name, value in settings.items()})
    assert limits(found) == {CPU: "7500m", GPU: "1", MEMORY: "64Gi", DISK: "80Gi"}
    assert (found["small"], found["gpu"], found["concurrency"]) == ("512Mi", ["7500m", "1"], 200)
    assert found["disk"] == ["2Gi", "100Gi", "20Gi"]
    assert found["hours"] == [1, 0.5, 24, 24]


@pytest.mark.parametrize("value", ["16", "16GB", "-1Gi", "0Gi", "lots"])
def test_an_amount_of_memory_that_kubernetes_would_refuse_is_refused_at_once(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAKUTEN_GPU_MEMORY", value)
    with pytest.raises(ValueError, match=rf"RAKUTEN_GPU_MEMORY='{value}': set it to an amount such as 16Gi .*for 16Gi"):
        PodSettings.from_environment()


@pytest.mark.parametrize("value", ["0", "1.5", "two", "-2"])
def test_numbers_that_make_no_sense_are_refused_all_at_once(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAKUTEN_PHOTO_GPUS", value)
    monkeypatch.setenv("RAKUTEN_CPU_CORES", value)
    with pytest.raises(ValueError, match="RAKUTEN_CPU_CORES") as refused:
        PodSettings.from_environment()
    assert f"RAKUTEN_PHOTO_GPUS='{value}': set it to a whole number from 1 to 10000, or unset it" in str(refused.value)
    assert f"RAKUTEN_CPU_CORES='{value}': set it to a number such as 4, or thousandths" in str(refused.value)


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf"])
def test_seconds_are_a_number_from_0(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAKUTEN_CHECKPOINT_SECONDS", value)
    with pytest.raises(ValueError, match=f"RAKUTEN_CHECKPOINT_SECONDS='{value}': set it to a number of secon"):
        PodSettings.from_environment()
    monkeypatch.setenv("RAKUTEN_CHECKPOINT_SECONDS", "0.5")
    assert PodSettings.from_environment().checkpoint_seconds == 0.5


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("RAKUTEN_ACTIVATE", "true", "1 for yes, or unset it for 0"),
        ("RAKUTEN_CPU_HOURS", "72", "a number of hours from 0.1 to 48, or unset it for 4.0"),
        ("RAKUTEN_CPU_HOURS", "inf", "a number of hours from 0.1 to 48, or unset it for 4.0"),
        ("RAKUTEN_CPU_DISK", "10", "an amount such as 16Gi or 512Mi, or unset it for 20Gi"),
        ("RAKUTEN_POD_PROFILE", "tpu", "'cpu' or 'gpu', or unset it for gpu"),
    ],
)
def test_a_choice_takes_its_values_alone_and_an_empty_variable_is_unset(
    name: str, value: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    assert PodSettings.from_environment() == PodSettings()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}='{value}': set it to {rule}"):
        PodSettings.from_environment()
