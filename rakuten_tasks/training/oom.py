"""Retry on out-of-memory with half the microbatch size, logged as a warning."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# What torch says in a plain RuntimeError; torch.OutOfMemoryError says the third. After accelerate's utils/memory.py.
OOM_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could have gone through."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in OOM_MESSAGES)
    )


class MicrobatchSize:
    """How many rows go through at once. What did not fit once is not tried again."""

    def __init__(self, rows: int, what: str, smallest: int = 1) -> None:
        """what: is at work, for the messages. smallest: where there is nothing left to halve."""
        self.rows, self.what, self.smallest = rows, what, smallest

    def halving(self, attempt: Callable[[int], Result], total: int, undo: Callable[[], None] = lambda: None) -> Result:
        """`attempt(rows)`, with half the rows as long as memory does not suffice; at most `total` rows.

        undo: frees and takes back what the failed attempt did. Raises MemoryError if the smallest does not fit.
        """
        while True:
            rows = min(self.rows, total)
            try:
                return attempt(rows)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if rows <= self.smallest:
                    raise MemoryError(
                        f"{self.what}: not even a batch of {rows} fits into memory: "
                        "choose a smaller photo.image_size or "
                        "text.max_tokens, or give the task more memory (rakuten_tasks/runtime/pods.py)"
                    ) from error
            # only after the except clause, whose traceback holds on to what the attempt had allocated
            undo()
            gc.collect()
            torch.cuda.empty_cache()
            self.rows = max(self.smallest, rows // 2)
            log.warning("%s: a batch of %d does not fit into memory: on with %d at once", self.what, rows, self.rows)

    def parts(self, total: int, answer: Callable[[int, int], Result]) -> Iterator[Result]:
        """`answer(start, end)` over rows 0 to total - 1, as many at once as fit."""

        def at(start: int) -> Callable[[int], Result]:
            return lambda rows: answer(start, start + rows)

        start = 0
        while start < total:
            part = self.halving(at(start), total - start)
            start += min(self.rows, total - start)
            yield part
