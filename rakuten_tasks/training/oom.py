"""Out-of-memory: run with half the batch where that can be repeated, else an error that names the setting."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# Texts of torch's plain RuntimeErrors; torch.OutOfMemoryError has the third. After accelerate's utils/memory.py.
OOM_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a smaller batch could avoid this error."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in OOM_MESSAGES)
    )


class MicrobatchRunner:
    """Runs a computation on as many rows at once as fit into memory; a size that failed is not tried again."""

    def __init__(self, rows: int, task: str, smallest: int = 1) -> None:
        """task: named in messages. smallest: number of rows that is not halved any more."""
        self.rows, self.task, self.smallest = rows, task, smallest

    def run(self, attempt: Callable[[int], Result], total: int) -> Result:
        """Return `attempt(rows)`, rows at most `total`, halved until it does not run out of memory.

        Raises MemoryError if the smallest number of rows does not fit.
        """
        while True:
            rows = min(self.rows, total)
            try:
                return attempt(rows)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows <= self.smallest:
                    raise MemoryError(
                        f"{self.task}: not even a batch of {rows} fits into memory: "
                        "choose a smaller photo.image_size or "
                        "text.max_tokens, or give the task more memory (rakuten_tasks/runtime/pods.py)"
                    ) from error
            # after the except clause, because its traceback refers to the tensors of the failed attempt
            gc.collect()
            torch.cuda.empty_cache()
            self.rows = max(self.smallest, rows // 2)
            log.warning("%s: a batch of %d does not fit into memory: continuing with %d", self.task, rows, self.rows)

    def iter_chunks(self, total: int, compute: Callable[[int, int], Result]) -> Iterator[Result]:
        """Yield `compute(start, end)` over rows 0 to total - 1, as many at once as fit."""
        start = 0

        def attempt(rows: int) -> Result:
            return compute(start, start + rows)

        while start < total:
            chunk = self.run(attempt, total - start)
            start += min(self.rows, total - start)
            yield chunk


@contextmanager
def explain_out_of_memory(task: str, rows: int) -> Iterator[None]:
    """Raise MemoryError that says what to change if the block, which runs `rows` rows at once, needs too much."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"{task}: {rows} rows at once fitted into memory before the first step and do not fit now: set this "
            f"network's batch size (lstm.batch_size, text.batch_size or photo.batch_size) below {rows}, or give the "
            "task more memory (rakuten_tasks/runtime/pods.py)"
        ) from error
