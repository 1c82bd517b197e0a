"""One Compose project of compose.yaml, with its own name and ports, removed with its volumes at the end."""

from __future__ import annotations

import json
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.stack.engine import Docker, compose_command, run_program
from tests.support.stack.images import ROOT

# Grafana has no stand-in: its provisioning files are checked by tests/integration/test_docker_files.py
SERVICES = ("postgres", "objects", "mlflow", "api-fast", "trainer", "drift-watch", "prometheus")
STAYING = tuple(name for name in SERVICES if name != "trainer")
PORTS = {"api-fast": "API_PORT", "mlflow": "MLFLOW_PORT", "prometheus": "PROMETHEUS_PORT", "grafana": "GRAFANA_PORT"}
PASSWORDS = ("POSTGRES_PASSWORD", "S3_SECRET_KEY", "GRAFANA_PASSWORD", "LIT_SERVER_API_KEY")
WATCH_HOURS = 0.02  # 72 s, instead of six hours


@dataclass(frozen=True)
class Stack:
    """variables: of its .env. Ports are those of this machine."""

    docker: Docker
    project: str
    env_file: Path
    variables: dict[str, str]

    def compose(self, *arguments: str) -> str:
        """-> what it printed."""
        options = ["--project-name", self.project, "--env-file", str(self.env_file), "--profile", "full"]
        return run_program([*compose_command(), "--file", str(ROOT / "compose.yaml"), *options, *arguments])

    def up(self, *services: str) -> None:
        """Create what is missing, start what is not running."""
        self.compose("up", "--detach", "--no-build", *services)

    def container(self, service: str) -> str:
        """Its id, also of one that has ended."""
        label = f"label=com.docker.compose.project={self.project}"
        of_service = f"label=com.docker.compose.service={service}"
        return self.docker.run("ps", "--all", "--quiet", "--filter", label, "--filter", of_service)

    def state(self, service: str) -> dict[str, Any]:
        """Status, ExitCode, Health: as Docker has them."""
        return json.loads(self.docker.run("inspect", "--format", "{{json .State}}", self.container(service)))

    def is_healthy(self, service: str) -> bool:
        """Whether Docker finds it running and healthy."""
        state = self.state(service)
        return state["Status"] == "running" and state["Health"]["Status"] == "healthy"

    def kill(self, service: str) -> None:
        """SIGKILL to all that runs in it."""
        self.docker.run("kill", self.container(service))
        self.wait_until(lambda: self.state(service)["Status"] == "exited", f"{service} ends", 30)

    def execute(self, service: str, code: str) -> Any:
        """What a Python program prints in the service's container, as JSON."""
        return json.loads(self.docker.run("exec", self.container(service), "python", "-c", code).splitlines()[-1])

    def url(self, service: str, path: str = "") -> str:
        """The address of a service from this machine."""
        return f"http://127.0.0.1:{self.variables[PORTS[service]]}{path}"

    def get(self, service: str, path: str, **options: Any) -> httpx.Response:
        """With the API's key; the other services pay it no regard."""
        return httpx.get(self.url(service, path), headers=self.headers, timeout=60, **options)

    def post(self, path: str, body: Any) -> httpx.Response:
        """To the API."""
        return httpx.post(self.url("api-fast", path), headers=self.headers, json=body, timeout=60)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.variables["LIT_SERVER_API_KEY"]}

    def log(self, service: str, lines: int = 25) -> str:
        """The end of what the service has printed."""
        return self.compose("logs", "--no-color", f"--tail={lines}", service)

    def wait_until(self, happened: Callable[[], bool], what: str, seconds: float) -> None:
        """AssertionError after so many seconds, with the end of every service's log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if happened():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        logs = "\n".join(self.log(service) for service in SERVICES if self.container(service))
        raise AssertionError(f"{what}: not within {seconds:.0f} s\n{logs}")

    def wait_until_healthy(self, *services: str) -> None:
        for service in services:
            self.wait_until(lambda name=service: self.is_healthy(name), f"{service} becomes healthy", 300)

    def wait_until_ready(self) -> None:
        """The API holds a champion."""
        self.wait_until(lambda: self.get("api-fast", "/ready").status_code == 200, "the API becomes ready", 300)


@contextmanager
def composed_stack(docker: Docker, images: dict[str, str], folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack that is not up yet. images: the variables that name them. At the end all that it made is removed."""
    project = f"rakutentest{secrets.token_hex(4)}"
    variables = {name: secrets.token_hex(12) for name in PASSWORDS}
    variables |= {variable: str(free_port()) for variable in PORTS.values()}
    variables |= {"WATCH_HOURS": str(WATCH_HOURS), **images}
    env_file = folder / "stack.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    for name in settings():  # of this environment, they would go before the file's
        patch.delenv(name, raising=False)
    stack = Stack(docker, project, env_file, variables)
    patch.setenv("MLFLOW_TRACKING_URI", stack.url("mlflow"))  # of MLflow's clients in this process
    # signed addresses are of the object store, whose name is known in the stack only
    patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    # a cancelled run ends as one that Ctrl-C ends, which removes what it made
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        signal.signal(signal.SIGTERM, handler)


def settings() -> set[str]:
    """Names of the variables that compose.yaml reads."""
    return set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "compose.yaml").read_text())) | {"COMPOSE_PROFILES"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
