"""Worker status for the API process: a JSON file replaced atomically, and a file lock that signals liveness."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rakuten_tasks.local_files import write_atomically

STATUS, ALIVE = "status.json", "alive.lock"
LOADING, WAITING, READY = "loading", "no champion", "ready"


@dataclass(frozen=True)
class Status:
    """state: LOADING, WAITING or READY. problem: what people should know of, empty if all is well."""

    state: str = LOADING
    model: str = ""
    version: str = ""
    problem: str = ""
    pid: int = 0
    # counted since the server started: a new worker goes on from what the last one told
    reloads: int = 0  # champions taken over from another
    failed_reloads: int = 0
    batches: dict[str, int] = field(default_factory=dict)  # products in a batch -> how many such batches
    bundle: dict[str, Any] = field(default_factory=dict)  # metrics, labels, lineage: for /info


def _read(folder: Path) -> Status:
    try:
        return Status(**json.loads((folder / STATUS).read_text()))
    except OSError:
        return Status()


def keep_counters(status: Status) -> Status:
    """Nothing but what has been counted: Prometheus takes a counter that falls for a new server."""
    return Status(reloads=status.reloads, failed_reloads=status.failed_reloads, batches=status.batches)


class StatusWriter:
    """The worker's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        before = _read(folder)
        self._status = replace(keep_counters(before), pid=os.getpid())
        self.replaces_another = before.state == READY  # one that was killed
        self._turn = threading.Lock()
        self._lock = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT)  # for as long as the process lives
        # the system lets go of it when the process ends, however it ends
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.publish()

    def publish(self, **changes: Any) -> None:
        """Change fields of the status."""
        with self._turn:
            self._status = Status(**{**asdict(self._status), **changes})
            write_atomically(self._folder / STATUS, json.dumps(asdict(self._status)), durable=False)

    def close(self) -> None:
        """As the end of the process does."""
        os.close(self._lock)

    @property
    def status(self) -> Status:
        """As last told."""
        return self._status


class StatusReader:
    """The API process's side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_at, self._status = 0, Status()
        self._lock: int | None = None

    def alive(self) -> bool:
        """Whether a worker is running: known at once, even after SIGKILL."""
        if self._lock is None:
            self._lock = os.open(self._folder / ALIVE, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return False

    def status(self) -> Status:
        """As last told; LOADING, with the same counts, while no worker is alive."""
        try:
            changed = (self._folder / STATUS).stat().st_mtime_ns
            if changed != self._read_at:
                self._status, self._read_at = _read(self._folder), changed
        except OSError:  # not told anything yet
            return Status()
        return (
            self._status
            if self.alive()
            else replace(keep_counters(self._status), problem="the worker is being restarted")
        )
