"""The images of the stack: ours, built from this tree, and stand-ins for those that cannot be pulled."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from tests.support.stack.engine import Docker, run_program

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
BASE = "python:3.11-slim-bookworm"
STAND_IN_BASE = "rakuten-base"
# service -> the variable of compose.yaml that names its image
STAND_INS = {"postgres": "POSTGRES_IMAGE", "objects": "S3_IMAGE", "prometheus": "PROMETHEUS_IMAGE"}
OURS = {"task": "TASK_IMAGE", "serve": "SERVE_IMAGE"}
PULL_SECONDS = 300


def build_images(docker: Docker) -> dict[str, str]:
    """-> the variables of compose.yaml that name what was built here; what could be pulled has its own name.

    An image that the environment names by one of those variables is taken as it is. BUILD_FLAGS and TORCH_INDEX of the
    environment are those of `make image`.
    """
    names = {name: os.environ[name] for name in (*OURS.values(), *STAND_INS.values()) if os.environ.get(name)}
    flags = [*os.environ.get("BUILD_FLAGS", "").split(), "--build-arg", f"BASE_IMAGE={_base(docker)}"]
    torch_index = ["--build-arg", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}"]
    for target, variable in OURS.items():
        if variable not in names:
            names[variable] = _build(docker, ROOT, target, f"rakuten-test-{target}", [*flags, *torch_index])
    for service, variable in STAND_INS.items():
        if variable not in names and not _pulled(docker, default_image(service)):
            names[variable] = _build(docker, HERE, service, f"rakuten-stand-in-{service}", flags)
    return {"MLFLOW_IMAGE": names["TASK_IMAGE"], **names}


def default_image(service: str) -> str:
    """What compose.yaml runs unless a variable names another image."""
    image = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]["image"]
    return re.sub(r"\$\{\w+:-(.+)\}", r"\1", image)


def _build(docker: Docker, context: Path, target: str, tag: str, flags: list[str]) -> str:
    docker.run("build", *flags, "--target", target, "--tag", tag, str(context), timeout=1800)
    return tag


def _pulled(docker: Docker, image: str) -> bool:
    if docker.has_image(image):
        return True
    try:
        pulled = subprocess.run([docker.program, "pull", "--quiet", image], capture_output=True, timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return pulled.returncode == 0


def _base(docker: Docker) -> str:
    """Python's image, or a stand-in made of Debian's packages."""
    if named := os.environ.get("BASE_IMAGE"):
        return named
    if _pulled(docker, BASE):
        return BASE
    if not docker.has_image(STAND_IN_BASE):
        run_program([str(HERE / "base_image.sh"), STAND_IN_BASE], DOCKER=docker.program)
    return STAND_IN_BASE
