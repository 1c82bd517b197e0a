"""var/: the one folder that local runs write to. Deleting it, or any folder directly in it, is always safe.

Delete mlflow/ as a whole: without its artifacts `make prune` is needed.
"""

from __future__ import annotations

import os
from pathlib import Path


def var_folder() -> Path:
    """Return RAKUTEN_VAR, by default var/ in the working directory. Raises ValueError for a name with `::`."""
    folder = Path(os.environ.get("RAKUTEN_VAR") or "var").resolve()
    if "::" in str(folder):  # the outputs of tasks lie there
        raise ValueError(f"RAKUTEN_VAR={folder}: Flyte takes :: for a chain of addresses: name another folder")
    return folder


def runs_folder() -> Path:
    """Return the folder of local runs: each has a folder with the outputs of its tasks."""
    return var_folder() / "flyte" / "runs"


def cache_folder() -> Path:
    """Return the folder of Flyte's local cache: the outputs of a task by its inputs."""
    return var_folder() / "flyte" / "cache"


def checkpoints_folder() -> Path:
    """Return the folder of checkpoints of interrupted trainings."""
    return var_folder() / "checkpoints"
