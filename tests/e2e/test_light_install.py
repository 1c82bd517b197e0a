"""`pip install .[register]`: what registers and launches, without torch and its like."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rakuten_tasks.runtime.absent_libraries import HEAVY
from tests.support.pods.image import write_image
from tests.support.pods.package import IMAGE, Package, package, read

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the extra `register`, what it needs, and nothing else of this environment."""
    folder = tmp_path_factory.mktemp("light") / "packages"
    folder.mkdir()
    todo = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["register"])]
    found: set[tuple[str, str]] = set()
    for need in todo:
        for extra in ("", *need.extras):
            if (key := (canonicalize_name(need.name), extra)) not in found:
                found.add(key)
                needed = map(Requirement, requires(need.name) or [])
                todo += [item for item in needed if item.marker is None or item.marker.evaluate({"extra": extra})]
    for name in {name for name, _ in found} | {"rakuten-classifier"}:
        files = distribution(name).files or []
        for top in {path.parts[0] for path in files} - {"..", "__pycache__", "_editable_impl_rakuten_classifier.pth"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder


def run(installed: Path, code: Path, *words: str, **environment: str) -> str:
    """Run this Python with these packages alone (-S: without its own)."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{code}:{installed}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", *words]
    done = subprocess.run(
        command, cwd=code, env={**variables, "HOME": str(code), **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_templates_are_those_of_a_whole_installation(installed, tmp_path):
    assert not [name for name in HEAVY if (installed / name).exists()]
    code = write_image(tmp_path / "image")
    whole = package(code, tmp_path / "whole")
    image = ["-i", f"task={IMAGE}", "--env", f"FLYTE_INTERNAL_IMAGE={IMAGE}"]
    command = ["-m", "flytekit.clis.sdk_in_container.pyflyte", "--pkgs", "workflows", "package", "--source", str(code)]
    run(installed, code, *command, *image, "-f", "-o", str(tmp_path / "light.tgz"), RAKUTEN_REGISTERS="1")
    assert contents(read(tmp_path / "light.tgz")) == contents(whole)


def contents(packaged: Package) -> dict[str, bytes]:
    """By name; flytekit writes the nodes before a node in the order of a set."""
    for workflow in packaged.workflows.values():
        for node in workflow.nodes:
            node.upstream_node_ids[:] = sorted(node.upstream_node_ids)
    entities = {
        **packaged.tasks,
        **packaged.workflows,
        **{f"plan {name}": plan for name, plan in packaged.plans.items()},
    }
    return {name: entity.SerializeToString(deterministic=True) for name, entity in entities.items()}


def test_the_commands_for_a_cluster_start_without_these_libraries(installed, tmp_path):
    code = write_image(tmp_path / "image")
    assert "deactivate" in run(installed, code, "-m", "rakuten_tasks.runtime.cluster", "--help")
