"""The folder var/serving: one server at a time; what killed ones left is removed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = "server.lock"
RUN = "run-"
PATIENCE = 10.0  # seconds: what a killed server leaves behind ends within moments


class FolderTakenError(RuntimeError):
    """Another server lives in the folder. The message says which, and how to mend it."""


def own(folder: Path, address: str) -> int:
    """Take the folder for as long as this process or one forked from it lives. -> the lock's descriptor

    Two servers would ship each other's minutes and remove each other's bundles. Raises FolderTakenError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + PATIENCE
    while not _locked(lock):
        owner = os.pread(lock, 200, 0).decode(errors="replace") or "starting"
        if time.monotonic() > until:
            os.close(lock)
            raise FolderTakenError(
                f"{folder} belongs to a running server ({owner}): stop it, or start this one with another RAKUTEN_VAR "
                "(MLFLOW_TRACKING_URI can name the same store)"
            )
        time.sleep(0.2)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{address}, process {os.getpid()}".encode(), 0)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_folder(folder: Path) -> Path:
    """Where this server's processes meet: new and empty. Removes those of dead servers; `own` the folder first."""
    for left in folder.glob(f"{RUN}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=RUN, dir=folder))
