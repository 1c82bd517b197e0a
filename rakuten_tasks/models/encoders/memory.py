"""Check before training whether an encoder fits into memory."""

from __future__ import annotations

from pathlib import Path

import torch

GIB = 2**30
# limit, usage and statistics of a container: version 2 of Linux's control groups, then version 1
LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
MEMINFO = "/proc/meminfo"


def available_memory() -> float:
    """Estimate the bytes that this process can still allocate; infinite if the system gives no limit."""
    free = [1024 * _read_number(MEMINFO, "MemAvailable:", default=float("inf"))]
    for limit, usage, statistics in LIMITS:
        if Path(limit).is_file() and (maximum := Path(limit).read_text().strip()).isdigit():
            # usage includes cached files, which the kernel drops when memory is short
            cached = _read_number(statistics, "inactive_file", default=0)
            free.append(int(maximum) - int(Path(usage).read_text()) + cached)
    return min(free)


def _read_number(path: str, name: str, default: float) -> float:
    lines = Path(path).read_text().splitlines() if Path(path).is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), default)


def require_memory(weights: int, batch: int, model: str) -> None:
    """Raise ValueError if weights and batch, in bytes, do not fit into memory, the GPU's if there is one."""
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available_memory()
    if weights + batch > free:
        raise ValueError(
            f"{model} needs about {(weights + batch) / GIB:.1f} GiB of memory ({weights / GIB:.1f} for its weights, "
            f"{batch / GIB:.1f} for a batch), and {free / GIB:.1f} are available: choose a smaller model, a smaller "
            "text.batch_size or text.max_tokens, or give the task more memory (rakuten_tasks/runtime/pods.py)"
        )
