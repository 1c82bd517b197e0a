"""Run one task of this process as its pod would, on local folders; tests/support/pods runs whole workflows."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap as LiteralMapProto
from flytekit import FlyteContextManager
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap

from tests.support.pods.image import write_image

IMAGE = Image("task", "registry.example/rakuten-task", "1")
SETTINGS = SerializationSettings(ImageConfig(IMAGE, [IMAGE]), "project", "domain", "1")


@dataclass(frozen=True)
class Attempt:
    """One pod: where it writes, and its process."""

    folder: Path
    process: subprocess.Popen

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def error(self) -> ContainerError | None:
        """What it left in error.pb once it has ended: a failed task exits with 0."""
        self.process.wait()
        path = self.folder / "outputs" / "error.pb"
        return ErrorDocument.FromString(path.read_bytes()).error if path.exists() else None

    def outputs(self) -> LiteralMap:
        assert self.error() is None
        proto = LiteralMapProto.FromString((self.folder / "outputs" / "outputs.pb").read_bytes())
        return LiteralMap.from_flyte_idl(proto)


def start(
    task: PythonFunctionTask, inputs: dict[str, Any], folder: Path, before: Path | None = None, /, **environment: str
) -> Attempt:
    """Start the task's container command in `folder`. before: the checkpoints of the attempt before this one."""
    code = write_image(folder / "code")
    context = FlyteContextManager.current_context()
    types = task.python_interface.inputs
    literals = TypeEngine.dict_to_literal_map(context, inputs, types)
    (folder / "inputs.pb").write_bytes(literals.to_flyte_idl().SerializeToString())
    for name in ("home", "tmp", "raw", "outputs", "checkpoints"):
        (folder / name).mkdir()
    places = {
        "{{.input}}": folder / "inputs.pb",
        "{{.outputPrefix}}": folder / "outputs",
        "{{.rawOutputDataPrefix}}": folder / "raw",
        "{{.checkpointOutputPrefix}}": folder / "checkpoints",
        "{{.prevCheckpointPrefix}}": before or '""',
    }
    program, *arguments = (str(places.get(word, word)) for word in task.get_container(SETTINGS).args)
    command = [str(Path(sys.executable).parent / program), *arguments]
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FLYTE_INTERNAL_EXECUTION_ID": folder.name,
        "FLYTE_INTERNAL_EXECUTION_PROJECT": "project",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": "domain",
        **environment,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=code, env=variables, stdout=log, stderr=subprocess.STDOUT)
    return Attempt(folder, process)
