"""What a pod may use: the one place where memory, GPUs, retries and time limits stand."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from flytekit import Resources

from rakuten_tasks.pod_settings import for_pods

# Named, for Flyte's default image is flytekit's own and holds none of this code: registering without naming one fails.
IMAGE = "{{.image.task.fqn}}:{{.image.task.version}}"

# A pod that asks for a GPU stays Pending on a cluster that has none, and a launch plan cannot change what a task
# asks for: so the profile is chosen where the tasks are registered. Locally it makes no difference.
PROFILE = os.environ.get("RAKUTEN_POD_PROFILE", "gpu")
if PROFILE not in ("cpu", "gpu"):
    raise ValueError(f"RAKUTEN_POD_PROFILE={PROFILE!r}: set it to 'cpu' or 'gpu', or unset it for 'gpu'")

# Settings that a pod needs and a laptop may have: copied from the environment in which the tasks are registered.
SETTINGS = ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "RAKUTEN_CHECKPOINT_SECONDS")
ENVIRONMENT = for_pods(SETTINGS)

# How often a training writes a checkpoint, at most; a slow store is written to less often.
CHECKPOINT_SECONDS = float(os.environ.get("RAKUTEN_CHECKPOINT_SECONDS", "30"))
if not CHECKPOINT_SECONDS >= 0:
    raise ValueError(f"RAKUTEN_CHECKPOINT_SECONDS={CHECKPOINT_SECONDS}: 0 (after every step) or more")


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


SMALL = _pod(cpu="1", memory="2Gi", hours=1)
CPU = _pod(cpu="2", memory="4Gi", hours=4)
# Training on spot machines: interrupted, it is tried again.
GPU = _pod(cpu="4", memory="16Gi", hours=12, gpu="1", interruptible=True, shared_memory="2Gi")

# Shards worked on at once by a map task.
CONCURRENCY = 16
