"""The hardware on which the bits of a training depend."""

from __future__ import annotations

import platform

import torch

from rakuten_tasks.training.distributed import world_size


def hardware_info() -> str:
    """Describe CPU type, instruction set, threads, GPU and torch in one line, for people to compare."""
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    return f"{processor}, {gpu}, torch {torch.__version__}{processes}"
