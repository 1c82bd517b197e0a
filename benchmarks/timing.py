"""Timer of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Run it. -> seconds"""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
