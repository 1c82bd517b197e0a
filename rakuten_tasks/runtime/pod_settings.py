"""Settings of pods, read from RAKUTEN_* at registration: a launch plan cannot change what a task requests."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationError

# Kubernetes' formats, without exponents and fractions of a byte
Memory = Annotated[str, Field(pattern=r"^[1-9]\d*(Mi|Gi|Ti|M|G|T)$", description="an amount such as 16Gi or 512Mi")]
# Flyte takes a training that has been open for two days for lost: registry/runs.py
Hours = Annotated[float, Field(ge=0.1, le=48, allow_inf_nan=False, description="a number of hours from 0.1 to 48")]
Cores = Annotated[str, Field(pattern=r"^[1-9]\d*m?$", description="a number such as 4, or thousandths such as 500m")]
Count = Annotated[int, Field(ge=1, le=10_000, description="a whole number from 1 to 10000")]
Seconds = Annotated[
    float, Field(ge=0, le=86_400, allow_inf_nan=False, description="a number of seconds from 0 to 86400")
]


class PodSettings(BaseModel, frozen=True):
    """Size and number of pods."""

    # A pod that requests a GPU stays Pending on a cluster without GPUs. Locally the profile changes nothing.
    pod_profile: Annotated[Literal["cpu", "gpu"], Field(description="'cpu' or 'gpu'")] = "gpu"
    # Disk for what a pod downloads and writes. A shard and a bundle take less than 1 GB; ingest writes
    # 26 KB for a product with a photo, so 20Gi are for 0.8 million products, and 17 GB of the challenge's features fit.
    small_cores: Cores = "1"
    small_memory: Memory = "2Gi"
    small_disk: Memory = "2Gi"
    small_hours: Hours = 1.0
    cpu_cores: Cores = "2"
    cpu_memory: Memory = "4Gi"
    cpu_disk: Memory = "20Gi"
    cpu_hours: Hours = 4.0  # of one attempt; then the task is stopped and tried again
    # Fits of linear members and baselines: about 35 KB for a row of the sample of at most 350,000, and 2 GB for L-BFGS
    fit_memory: Memory = "16Gi"
    gpu_cores: Cores = "4"
    gpu_memory: Memory = "16Gi"
    gpu_disk: Memory = "20Gi"
    gpu_hours: Hours = 12.0
    # VGG16 on several GPUs: one process each; with the profile cpu, one process for each GPU that it would request
    photo_gpus: Count = 1
    photo_nodes: Count = 1
    photo_cores: Cores = ""  # empty: gpu_cores, or 4 for each of several GPUs
    photo_memory: Memory = ""  # empty: gpu_memory, or 16Gi for each of several GPUs
    # VGG16's block 5 reads 207 KB of features a photo, 17.5 GB for the challenge's; pods of cpu_disk and gpu_disk too
    photo_disk: Memory = "40Gi"
    concurrency: Count = 16  # shards that a map task works on at once
    checkpoint_seconds: Seconds = 30.0  # least time between two checkpoints of a training; 0: after every step
    activate: Annotated[Literal["0", "1"], Field(description="1 for yes")] = "0"  # launch plans

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variables; an empty one counts as unset. ValueError names each invalid one, its value and rule."""
        names = {name: variable(name) for name in cls.model_fields}
        try:
            return cls.model_validate({name: os.environ[key] for name, key in names.items() if os.environ.get(key)})
        except ValidationError as error:
            messages = []
            for item in error.errors():
                field = cls.model_fields[str(item["loc"][0])]
                rule = f"set it to {field.description}, or unset it for {field.default or 'the default'}"
                messages.append(f"{variable(str(item['loc'][0]))}={item['input']!r}: {rule}")
            raise ValueError("; ".join(messages)) from error


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"RAKUTEN_{name.upper()}"


PROFILE = variable("pod_profile")
# Copied from the environment of the registration into that of the pods: a value that changes makes another version. The
# pod of a dynamic task imports pods.py to plan other tasks, and must request for them what was registered.
POD_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    *(variable(name) for name in PodSettings.model_fields if name != "activate"),
)
