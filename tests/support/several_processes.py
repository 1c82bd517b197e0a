"""Runs a function in several gloo processes, as torch elastic starts them, each with one thread as pods have it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rakuten_tasks.training import hardware
from rakuten_tasks.training.distributed import process_group


def run_in(processes: int, function: Callable, *arguments: Any) -> dict[int, Any]:
    """-> what each rank returned. The function and what it takes must be importable: the processes start anew."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_endpoint="localhost:0",
        rdzv_backend="c10d",
        start_method="spawn",
        monitor_interval=0.1,
        max_restarts=0,
    )
    return elastic_launch(config, _run_rank)(function, *arguments)


def _run_rank(function: Callable, *arguments: Any) -> Any:
    torch.set_num_threads(1)
    # bf16, where this processor has it, rounds more coarsely than what is compared
    hardware.half_precision = lambda device: False
    os.environ.setdefault("TQDM_DISABLE", "1")
    with process_group():
        return function(*arguments)
