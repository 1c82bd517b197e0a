"""Reading of several files at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 8  # a store takes tens of milliseconds to answer, in which a thread waits

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield read(item) of each item, in order; READERS of them are read at once and held at most."""
    with ThreadPoolExecutor(READERS) as executor:
        pending: deque[Future[Result]] = deque()
        for item in items:
            if len(pending) == READERS:
                yield pending.popleft().result()
            pending.append(executor.submit(read, item))
        while pending:
            yield pending.popleft().result()
