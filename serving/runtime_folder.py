"""The folder var/serving: one server at a time; removes what killed servers leave behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

LOCK = "server.lock"
RUN = "run-"
TIMEOUT = 10.0  # seconds: the processes of a killed server end within moments


class FolderTakenError(RuntimeError):
    """A folder that another server uses. The message names that server and the way out."""


def lock_folder(folder: Path, address: str) -> int:
    """Lock the folder for as long as this process or one forked from it lives. Return the lock's descriptor.

    Two servers would export each other's minutes and remove each other's bundles. Raises FolderTakenError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # flock itself: processes forked from this one share the lock
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                owner = os.pread(lock, 200, 0).decode(errors="replace") or "starting"
                os.close(lock)
                raise FolderTakenError(
                    f"{folder} belongs to a running server ({owner}): stop it, or start this one with another "
                    "RAKUTEN_VAR (MLFLOW_TRACKING_URI can name the same store)"
                ) from None
        time.sleep(0.2)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{address}, process {os.getpid()}".encode(), 0)
    return lock


def create_run_folder(folder: Path) -> Path:
    """Create an empty folder for this run's processes, and remove those of dead servers. Lock the folder first."""
    for path in folder.glob(f"{RUN}*"):
        shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=RUN, dir=folder))
