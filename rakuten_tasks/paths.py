"""var/: the one folder that local runs write to. Deleting it, or any folder directly in it, is always safe.

What lies in mlflow/ belongs together: without its artifacts `make prune` is needed.
"""

from __future__ import annotations

import os
from pathlib import Path


def var_folder() -> Path:
    """RAKUTEN_VAR, or else var/ where this runs."""
    return Path(os.environ.get("RAKUTEN_VAR") or "var").resolve()


def runs_folder() -> Path:
    """Outputs of local runs: a folder each, in which Flyte keeps what the tasks wrote."""
    return var_folder() / "flyte" / "runs"


def cache_folder() -> Path:
    """Which task gave which outputs from which inputs, as Flyte remembers it locally."""
    return var_folder() / "flyte" / "cache"


def checkpoints_folder() -> Path:
    """Trainings that were cut short, to be gone on with."""
    return var_folder() / "checkpoints"
