"""A Docker engine and its programs: the running one, or one of our own where dockerd is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUILDKIT = {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}


class NoEngineError(RuntimeError):
    """Why no container can run here."""


@dataclass(frozen=True)
class Docker:
    """The client program: the first on the PATH that has BuildKit, whose component some installations lack."""

    program: str

    def run(self, *arguments: str, timeout: float = 600) -> str:
        """-> what it printed. AssertionError with the end of its output if it fails."""
        return run_program([self.program, *arguments], timeout=timeout)

    def has_image(self, image: str) -> bool:
        """Whether the image is on this machine."""
        return bool(self.run("images", "--quiet", image))


def run_program(command: list[str], timeout: float = 600, **variables: str) -> str:
    """-> its standard output. AssertionError with the end of its output if it fails."""
    environment = {**os.environ, **BUILDKIT, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)[:300]}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def compose_command() -> list[str]:
    """The plugin of Docker where it is, or else Debian's program; empty where there is neither."""
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin and plugin.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


@contextmanager
def docker_engine() -> Iterator[Docker]:
    """NoEngineError where none runs and none can be started."""
    programs = _programs()
    if not programs:
        raise NoEngineError("no program `docker`, nor the one that DOCKER names")
    if not compose_command():
        raise NoEngineError("neither `docker compose` nor `docker-compose`")
    if _answers(programs[0]):
        yield Docker(_with_buildkit(programs))
        return
    with _daemon(programs[0]):
        yield Docker(_with_buildkit(programs))


def _programs() -> list[str]:
    named = os.environ.get("DOCKER", "docker")
    folders = os.environ.get("PATH", "").split(os.pathsep)
    # which() looks for a name with a slash at that path alone
    return list(dict.fromkeys(filter(None, (shutil.which(named, path=folder) for folder in folders))))


def _answers(program: str) -> bool:
    return subprocess.run([program, "info"], capture_output=True).returncode == 0


def _with_buildkit(programs: list[str]) -> str:
    for program in programs:
        command = [program, "build", "--quiet", "-"]
        trial: dict = {"input": "FROM scratch\nLABEL of=test\n", "text": True, "capture_output": True}
        if subprocess.run(command, env={**os.environ, **BUILDKIT}, **trial).returncode == 0:
            return program
    raise NoEngineError(f"{', '.join(programs)}: builds no image with BuildKit; Docker 23 has it, or docker-buildx")


@contextmanager
def _daemon(program: str) -> Iterator[None]:
    """A daemon for as long as the tests run. What it stores lies where Docker has it, so that images are built once."""
    if os.geteuid() or not shutil.which("dockerd"):
        raise NoEngineError("no Docker daemon answers, and none can be started: that needs root and `dockerd`")
    with tempfile.TemporaryDirectory(prefix="dockerd-") as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            daemon = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
        try:
            until = time.monotonic() + 60
            while not _answers(program):
                if daemon.poll() is not None or time.monotonic() > until:
                    raise NoEngineError(f"dockerd does not start here: {log.read_text()[-1000:]}")
                time.sleep(0.5)
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)
