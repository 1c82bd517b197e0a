"""One pod: a task's container command in a process of its own, of which nothing stays but what it sent to the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate

PROGRAMS = Path(sys.executable).parent
# How this machine computes: another BLAS kernel rounds otherwise, and "bit for bit" holds on one machine type
ARITHMETIC = ("OMP_", "OPENBLAS_", "MKL_")
INDEX = {"BATCH_JOB_ARRAY_INDEX_VAR_NAME": "FLYTE_K8S_ARRAY_INDEX"}


@dataclass(frozen=True)
class Ended:
    """What is left of a pod. log: what it printed; seconds: it lasted; left_behind: files in its working directory.

    written: what it sent to the store for Flyte, by name.
    """

    folder: str
    returncode: int
    log: str
    seconds: float
    left_behind: list[str]
    written: dict[str, bytes]

    @property
    def checkpoints(self) -> str:
        return f"{self.folder}/checkpoints"

    @property
    def error(self) -> ErrorDocument | None:
        """A failed task exits with 0 and leaves error.pb."""
        return ErrorDocument.FromString(self.written["error.pb"]) if "error.pb" in self.written else None

    def outputs(self) -> LiteralMap:
        missing = f"{self.folder}: neither outputs nor error, status {self.returncode}:\n{self.log}"
        assert "outputs.pb" in self.written, missing
        return LiteralMap.FromString(self.written["outputs.pb"])

    def futures(self) -> bytes | None:
        """Of a dynamic task: the DynamicJobSpec that is to be run in its place."""
        return self.written.get("futures.pb")


@dataclass
class Machine:
    """Where pods run. code: their image's working directory; work: their disks, empty again after each.

    environment: what the cluster gives to each pod; names: addresses that only the cluster's DNS knows -> real ones.
    kill_when: asked ten times a second with the checkpoints a pod has written; true kills it with SIGKILL.
    """

    code: Path
    work: Path
    store: str
    environment: Mapping[str, str]
    names: Mapping[str, str]
    at_once: int = 2
    started: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._places = threading.BoundedSemaphore(self.at_once)
        # one for all threads: fsspec would make one for each, and leave its connections open
        self._filesystem, _ = fsspec.url_to_fs(self.store)

    def run(
        self,
        task: TaskTemplate,
        inputs: LiteralMap,
        before: str = "",
        item: int | None = None,
        kill_when: Callable[[list[str]], bool] | None = None,
        **environment: str,
    ) -> Ended:
        """Run the task's container once. before: checkpoints of the attempt before; item: of a map task."""
        with self._lock:
            self.started += 1
            name = f"pod{self.started:03}"
        disk, folder = self.work / name, f"{self.store}/{name}"
        with self._places:
            shutil.copytree(self.code, disk / "code")
            shipped = _files(disk / "code")
            for inside in ("home", "tmp"):
                (disk / inside).mkdir()
            self._filesystem.makedirs(folder, exist_ok=True)
            self._filesystem.pipe_file(f"{folder}/inputs.pb", inputs.SerializeToString())
            began = time.monotonic()
            variables = self._variables(disk, task, item, environment)
            status = _wait(_command(task, folder, before), disk, variables, lambda: self._is_time(kill_when, folder))
            left = sorted(_files(disk / "code") - shipped)
            said = (disk / "log").read_text(errors="replace")
            shutil.rmtree(disk)
            seconds = time.monotonic() - began
        return Ended(folder, status, said, seconds, left, self._written(f"{folder}/outputs"))

    def _is_time(self, kill_when: Callable[[list[str]], bool] | None, folder: str) -> bool:
        if kill_when is None:
            return False
        self._filesystem.invalidate_cache()
        return kill_when(self._filesystem.find(f"{folder}/checkpoints"))

    def _written(self, folder: str) -> dict[str, bytes]:
        self._filesystem.invalidate_cache()
        paths = [path for path in self._filesystem.find(folder) if path.endswith(".pb")]
        return {path.rpartition("/")[2]: self._filesystem.cat_file(path) for path in paths}

    def _variables(
        self, disk: Path, task: TaskTemplate, item: int | None, environment: Mapping[str, str]
    ) -> dict[str, str]:
        told = {pair.key: pair.value for pair in task.container.env}
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(disk / "home"),
            "TMPDIR": str(disk / "tmp"),
            "PYTHONPATH": str(disk / "code"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: value for name, value in os.environ.items() if name.startswith(ARITHMETIC)},
            "RAKUTEN_VAR": str(disk / "code" / "var"),  # if anything is written there, it shows in left_behind
            "FLYTE_INTERNAL_EXECUTION_PROJECT": "project",
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": "domain",
            **({} if item is None else {**INDEX, "FLYTE_K8S_ARRAY_INDEX": str(item)}),
            **self.environment,
            **{name: self.names.get(value, value) for name, value in told.items()},
            **environment,
        }


def _wait(command: list[str], disk: Path, variables: dict[str, str], kill_now: Callable[[], bool]) -> int:
    """Run the command in the image's working directory. -> its status, below 0 where a signal has ended it"""
    with (disk / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=disk / "code", env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        while process.poll() is None:
            if kill_now():
                process.kill()
            time.sleep(0.1)
    return process.returncode


def _command(task: TaskTemplate, folder: str, before: str) -> list[str]:
    places = {
        "{{.input}}": f"{folder}/inputs.pb",
        "{{.outputPrefix}}": f"{folder}/outputs",
        "{{.rawOutputDataPrefix}}": f"{folder}/raw",
        "{{.checkpointOutputPrefix}}": f"{folder}/checkpoints",
        "{{.prevCheckpointPrefix}}": before or '""',
    }
    program, *arguments = (places.get(word, word) for word in (*task.container.command, *task.container.args))
    return [str(PROGRAMS / program), *arguments]


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
