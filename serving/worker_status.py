"""Worker status for the API process: a JSON file replaced atomically, and a file lock that signals liveness."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rakuten_tasks.storage.local_files import write_atomically

STATUS, ALIVE = "status.json", "alive.lock"
LOADING, WAITING, READY = "loading", "no champion", "ready"


@dataclass(frozen=True)
class Status:
    """state: LOADING, WAITING or READY. problem: text for GET /info, empty if all is well."""

    state: str = LOADING
    model: str = ""
    version: str = ""
    problem: str = ""
    pid: int = 0
    # counters since the server started: a new worker continues those of the last one
    reloads: int = 0  # champions that replaced another
    failed_reloads: int = 0
    batches: dict[str, int] = field(default_factory=dict)  # products in a batch -> number of such batches
    members: dict[str, int] = field(default_factory=dict)  # member -> products whose prediction it took part in
    skipped_photos: int = 0  # photos that predictions did without
    bundle: dict[str, Any] = field(default_factory=dict)  # metrics, labels, lineage: for GET /info

    def counters(self) -> Status:
        """Copy of nothing but the counters: Prometheus takes a counter that falls for a restarted server."""
        names = ("reloads", "failed_reloads", "batches", "members", "skipped_photos")
        return Status(**{name: getattr(self, name) for name in names})


def _read(folder: Path) -> Status:
    try:
        return Status(**json.loads((folder / STATUS).read_text()))
    except OSError:
        return Status()


def _open_lock(folder: Path) -> int:
    # flock without filelock's wrapper: every request checks it, and 1 us is less than 100 us
    return os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT)


class StatusWriter:
    """Writer of the status, in the worker. It holds the lock until the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """folder: of the run. Waits for the end of an earlier worker."""
        self._folder = folder
        previous = _read(folder)
        self.status = replace(previous.counters(), pid=os.getpid())  # as last published
        self.replaces_another = previous.state == READY  # a worker that was killed
        self._publishing = threading.Lock()
        self.lock = _open_lock(folder)  # descriptor
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.publish()

    def publish(self, **changes: Any) -> None:
        """Change fields of the status."""
        with self._publishing:
            self.status = replace(self.status, **changes)
            write_atomically(self._folder / STATUS, json.dumps(asdict(self.status)), durable=False)


class StatusReader:
    """Reader of the status, in the API process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modified, self._status = 0, Status()
        self._lock: int | None = None

    def is_alive(self) -> bool:
        """Whether a worker is running; False at once after its end, SIGKILL included."""
        if self._lock is None:
            self._lock = _open_lock(self._folder)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return False

    def status(self) -> Status:
        """Status as last published; while no worker is alive, LOADING with the last counters."""
        try:
            modified = (self._folder / STATUS).stat().st_mtime_ns
        except OSError:  # nothing was published yet
            return Status()
        if modified != self._modified:
            self._status, self._modified = _read(self._folder), modified
        if self.is_alive():
            return self._status
        return replace(self._status.counters(), problem="the worker is being restarted")
