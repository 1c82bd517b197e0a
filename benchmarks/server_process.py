"""A server in a process of its own, its memory and its processor time. For benchmarks/serving.py."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


class Process:
    """A server in a process of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], ready: str, port: int) -> None:
        self.port = port
        self._child = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment})
        ends = time.monotonic() + 120
        while not self._answers(ready):
            if self._child.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{' '.join(command)} did not start: see above")
            time.sleep(0.2)

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """The main process and all below it."""
        found = [self._child.pid]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def memory(self) -> float:
        """Megabytes; what several processes share is counted once."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids())
        return sum(int(rollup.partition("Pss:")[2].split()[0]) for rollup in rollups) / 1024

    def cpu(self, seconds: float) -> float:
        """Share of one core over so many seconds."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.terminate()
        self._child.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
