"""Check before training whether an encoder fits into memory."""

from __future__ import annotations

from pathlib import Path

import torch

GIB = 2**30
# of a container: version 2 of Linux's control groups, then version 1
LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
MEMINFO = "/proc/meminfo"


def available() -> float:
    """Bytes of memory that this process may still take; infinite where the system does not say."""
    free = [_field(MEMINFO, "MemAvailable:") * 1024]
    for limit, used, statistics in LIMITS:
        if Path(limit).is_file() and (said := Path(limit).read_text().strip()).isdigit():
            # files that were read are counted as used, and given up when memory is short
            cached = _field(statistics, "inactive_file")
            free.append(int(said) - int(Path(used).read_text()) + (cached if cached < float("inf") else 0))
    return min(free)


def _field(path: str, name: str) -> float:
    if Path(path).is_file():
        for line in Path(path).read_text().splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    return float("inf")


def require(weights: int, batch: int, what: str) -> None:
    """weights, batch: bytes. Raises ValueError if they do not fit, on the GPU if there is one, and said how to mend."""
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available()
    if weights + batch > free:
        raise ValueError(
            f"{what} needs about {(weights + batch) / GIB:.1f} GiB of memory ({weights / GIB:.1f} for its weights, "
            f"{batch / GIB:.1f} for a batch), and {free / GIB:.1f} are available: choose a smaller model, a smaller "
            "text.batch_size or text.max_tokens, or give the task more memory (rakuten_tasks/runtime/pods.py)"
        )
