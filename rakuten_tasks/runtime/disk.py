"""Check that a disk has room, before the work that would fill it begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ByteSize, TypeAdapter

from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.pod_env import is_pod
from rakuten_tasks.runtime.pod_settings import variable

SIZES = TypeAdapter(ByteSize)


def require_pod_disk(size: int, content: str, settings: Sequence[str], remedy: str = "") -> None:
    """Raise CatalogueError in a pod if `size` bytes exceed the disk of a kind of pods that will hold them.

    content: what takes them, in the plural. settings: of these disks, such as "cpu_disk". remedy: how to need less.
    """
    disks = {variable(name): str(getattr(pods.SETTINGS, name)) for name in settings}
    small = {name: value for name, value in disks.items() if SIZES.validate_python(f"{value}B") < size}
    if small and is_pod():
        raise CatalogueError(
            f"{content} take {size / 1e9:,.1f} GB, and pods have {', '.join(f'{n}={v}' for n, v in small.items())}: "
            f"register with {' and '.join(small)} of at least {math.ceil(size / 2**30)}Gi, on nodes that have it"
            f"{f', or {remedy}' if remedy else ''}"
        )


def require_free_disk(size: int, content: str, folder: Path) -> None:
    """Raise CatalogueError if `size` bytes do not fit in a folder now. content: as in require_pod_disk."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CatalogueError(
            f"{content} take {size / 1e9:,.1f} GB, and the disk of {folder} has {free / 1e9:,.1f} GB free: free more"
        )
