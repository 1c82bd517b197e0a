"""Resources, retries and timeouts of pods: the one place where they are set."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flytekit import Resources

from rakuten_tasks.runtime.pod_env import forwarded_env
from rakuten_tasks.runtime.pod_settings import POD_VARIABLES, PodSettings

# Flyte's default image is flytekit's own, without this code: registering without an image of this name fails.
IMAGE = "{{.image.task.fqn}}:{{.image.task.version}}"

SETTINGS = PodSettings.from_environment()
CONCURRENCY = SETTINGS.concurrency
CHECKPOINT_SECONDS = SETTINGS.checkpoint_seconds

ENVIRONMENT = forwarded_env(POD_VARIABLES)


def _pod(cpu: str, memory: str, disk: str, hours: float, gpu: int = 0, **options: Any) -> dict[str, Any]:
    # Requests equal limits: `Resources(gpu=...)` alone sets only the request, and no pod then gets a GPU.
    gpus = str(gpu) if gpu and SETTINGS.pod_profile == "gpu" else None
    resources = Resources(cpu=cpu, mem=memory, ephemeral_storage=disk, gpu=gpus)
    return {
        "container_image": IMAGE,
        "requests": resources,
        "limits": resources,
        "retries": 2,
        "timeout": timedelta(hours=hours),
        "environment": ENVIRONMENT,
        **options,
    }


def _photo_pod() -> dict[str, Any]:
    gpus, nodes = SETTINGS.photo_gpus, SETTINGS.photo_nodes
    cores, memory, options = SETTINGS.gpu_cores, SETTINGS.gpu_memory, dict(TRAINING)
    if gpus * nodes > 1:
        from flytekitplugins.kfpytorch import Elastic  # a second to import

        cores, memory = str(4 * gpus), f"{16 * gpus}Gi"
        options["task_config"] = Elastic(nnodes=nodes, nproc_per_node=gpus)
    return _pod(
        SETTINGS.photo_cores or cores, SETTINGS.photo_memory or memory, SETTINGS.photo_disk, gpu=gpus, **options
    )


# Training may run on spot machines: an interrupted pod is retried.
TRAINING: dict[str, Any] = {"hours": SETTINGS.gpu_hours, "interruptible": True, "shared_memory": "2Gi"}
SMALL = _pod(SETTINGS.small_cores, SETTINGS.small_memory, SETTINGS.small_disk, SETTINGS.small_hours)
CPU = _pod(SETTINGS.cpu_cores, SETTINGS.cpu_memory, SETTINGS.cpu_disk, SETTINGS.cpu_hours)
FIT = _pod(SETTINGS.cpu_cores, SETTINGS.fit_memory, SETTINGS.cpu_disk, SETTINGS.cpu_hours)
GPU = _pod(SETTINGS.gpu_cores, SETTINGS.gpu_memory, SETTINGS.gpu_disk, gpu=1, **TRAINING)
PHOTO = _photo_pod()
