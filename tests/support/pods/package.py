"""What `pyflyte package` writes: the templates that a cluster would be given."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import WorkflowTemplate

IMAGE = "registry.example/rakuten-task:1"
KEPT = ("PATH", "LANG", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Package:
    """By name, with the package before it."""

    tasks: dict[str, TaskTemplate]
    workflows: dict[str, WorkflowTemplate]
    plans: dict[str, LaunchPlan]

    def functions(self) -> set[str]:
        """Modules and names of all Python functions that are tasks; a map task's is the one that it maps."""
        return {function(task) for task in self.tasks.values()}


def function(task: TaskTemplate) -> str:
    """module.name of the Python function that the task's container runs."""
    arguments = list(task.container.args)
    return ".".join(arguments[arguments.index(f"task-{part}") + 1] for part in ("module", "name"))


def package(code: Path, folder: Path, packages: str = "workflows", **environment: str) -> Package:
    """Package the workflows of the image `code`. environment: as where they are registered."""
    folder.mkdir(parents=True, exist_ok=True)
    pyflyte = str(Path(sys.executable).with_name("pyflyte"))
    image = ["-i", f"task={IMAGE}", "--env", f"FLYTE_INTERNAL_IMAGE={IMAGE}"]
    output = ["-f", "-o", str(folder / "package.tgz")]
    command = [pyflyte, "--pkgs", packages, "package", "--source", str(code), *image, *output]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    variables = {**kept, "HOME": str(folder), "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=code, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return read(folder / "package.tgz")


def read(path: Path) -> Package:
    """The protobufs of a package: *_1.pb are tasks, *_2.pb workflows, *_3.pb launch plans."""
    found = Package({}, {}, {})
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            kind, data = member.name.rpartition("_")[2], content.read()
            if kind == "1.pb":
                task = TaskSpec.FromString(data).template
                found.tasks[task.id.name] = task
            elif kind == "2.pb":
                workflow = WorkflowSpec.FromString(data).template
                found.workflows[workflow.id.name] = workflow
            else:
                plan = LaunchPlan.FromString(data)
                found.plans[plan.id.name] = plan
    return found
