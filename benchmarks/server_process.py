"""A server process with its memory and processor time. For benchmarks/serving.py."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


class Process:
    """A server process and its children."""

    def __init__(self, command: list[str], environment: dict[str, str], ready: str, port: int) -> None:
        self.port = port
        self._child = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment})
        ends = time.monotonic() + 120
        while not self._is_ready(ready):
            if self._child.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{' '.join(command)} did not start: see above")
            time.sleep(0.2)

    def _is_ready(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """List the main process and all its descendants."""
        pids = [self._child.pid]
        for pid in pids:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pids

    def memory(self) -> float:
        """Return megabytes; memory shared by several processes counts once."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids())
        return sum(int(rollup.partition("Pss:")[2].split()[0]) for rollup in rollups) / 1024

    def cpu(self, seconds: float) -> float:
        """Return the used share of one core, measured for so many seconds."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def cpu_seconds(self) -> float:
        """Return the processor time so far, in seconds."""
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.terminate()
        self._child.wait(60)


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
