"""Resources, retries and timeouts of pods: the one place where they are set."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from flytekit import Resources

from rakuten_tasks.runtime.pod_env import forwarded_env
from rakuten_tasks.runtime.pod_sizes import cores, memory, seconds, whole

# Named, for Flyte's default image is flytekit's own and holds none of this code: registering without naming one fails.
IMAGE = "{{.image.task.fqn}}:{{.image.task.version}}"

# A pod that asks for a GPU stays Pending on a cluster that has none, and a launch plan cannot change what a task
# asks for: so the profile is chosen where the tasks are registered. Locally it makes no difference.
PROFILE = os.environ.get("RAKUTEN_POD_PROFILE", "gpu")
if PROFILE not in ("cpu", "gpu"):
    raise ValueError(f"RAKUTEN_POD_PROFILE={PROFILE!r}: set it to 'cpu' or 'gpu', or unset it for 'gpu'")

# Settings that a pod needs and a laptop may have: copied from the environment in which the tasks are registered.
SETTINGS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "RAKUTEN_CHECKPOINT_SECONDS",
    "RAKUTEN_PHOTO_GPUS",
    "RAKUTEN_PHOTO_NODES",
    # a dynamic task plans others in its pod, where this module is read again: they ask for what was registered
    "RAKUTEN_POD_PROFILE",
    "RAKUTEN_CONCURRENCY",
    *(f"RAKUTEN_{pod}_{size}" for pod in ("SMALL", "CPU", "GPU", "PHOTO") for size in ("CORES", "MEMORY")),
)
ENVIRONMENT = forwarded_env(SETTINGS)

# How often a training writes a checkpoint, at most; a slow store is written to less often.
CHECKPOINT_SECONDS = seconds("RAKUTEN_CHECKPOINT_SECONDS", "30")  # 0: after every step


def _pod(cpu: str, memory: str, hours: float, gpu: str | None = None, **options: Any) -> dict[str, Any]:
    # Requests and limits are the same: `Resources(gpu=...)` alone sets only the request, and no pod then gets a GPU.
    resources = Resources(cpu=cpu, mem=memory, gpu=gpu if PROFILE == "gpu" else None)
    return {
        "container_image": IMAGE,
        "requests": resources,
        "limits": resources,
        "retries": 2,
        "timeout": timedelta(hours=hours),
        "environment": ENVIRONMENT,
        **options,
    }


SMALL = _pod(cpu=cores("SMALL", "1"), memory=memory("SMALL", "2Gi"), hours=1)
CPU = _pod(cpu=cores("CPU", "2"), memory=memory("CPU", "4Gi"), hours=4)
# Training on spot machines: interrupted, it is tried again.
TRAINING: dict[str, Any] = {"hours": 12, "interruptible": True, "shared_memory": "2Gi"}
GPU = _pod(cpu=cores("GPU", "4"), memory=memory("GPU", "16Gi"), gpu="1", **TRAINING)

# The photo network on several GPUs: a process for each (on the profile without GPUs, for each that is asked for).
PHOTO_GPUS, PHOTO_NODES = whole("RAKUTEN_PHOTO_GPUS", 1), whole("RAKUTEN_PHOTO_NODES", 1)


def _photo() -> dict[str, Any]:
    # alone it is as large as the other pods with a GPU, unless it is told otherwise
    usual = {"cpu": cores("GPU", "4"), "memory": memory("GPU", "16Gi")}
    options: dict[str, Any] = {}
    if PHOTO_GPUS * PHOTO_NODES > 1:
        from flytekitplugins.kfpytorch import Elastic  # a second to import

        usual = {"cpu": str(4 * PHOTO_GPUS), "memory": f"{16 * PHOTO_GPUS}Gi"}
        options["task_config"] = Elastic(nnodes=PHOTO_NODES, nproc_per_node=PHOTO_GPUS)
    cpu, room = cores("PHOTO", usual["cpu"]), memory("PHOTO", usual["memory"])
    return _pod(cpu=cpu, memory=room, gpu=str(PHOTO_GPUS), **options, **TRAINING)


PHOTO = _photo()

# Shards worked on at once by a map task.
CONCURRENCY = whole("RAKUTEN_CONCURRENCY", 16)
