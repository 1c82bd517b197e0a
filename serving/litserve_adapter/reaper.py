"""Answers for the worker: 504 to requests that waited too long, 503 to those that a killed worker held.

LitServe looks for such requests in its main process, where there are none, so they would hang for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import HTTPException
from litserve.utils import LitAPIStatus

POLL_SECONDS = 0.1  # seconds
WORKER_DRAIN_SECONDS = 0.5  # seconds after a worker's death until all that it had said has arrived
KILLED = "the worker that held this request was killed: send it again"
LATE = "no answer within the time limit"


class PendingRequestReaper:
    """A task beside the server's, in its event loop."""

    def __init__(self, buffer: dict[str, Any], alive: Callable[[], bool], time_limit: float) -> None:
        """buffer: LitServe's waiting requests, by uid. alive: whether a worker is running."""
        self._buffer, self._alive, self._limit = buffer, alive, time_limit
        self._since: dict[str, float] = {}  # uid -> first seen
        self._held_by_dead_worker: dict[str, float] = {}  # uid -> when its worker was seen dead

    async def run(self) -> None:
        """Until cancelled. Ends the process if the server's main process is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            self.scan(time.monotonic())
            await asyncio.sleep(POLL_SECONDS)
        os._exit(1)  # an orphan would go on holding the port

    def scan(self, now: float) -> None:
        """One look at all that waits."""
        waiting = dict(self._waiting())
        self._since = {uid: self._since.get(uid, now) for uid in waiting}
        if not self._alive():
            taken = [uid for uid, item in waiting.items() if item.worker_id is not None]
            self._held_by_dead_worker |= {uid: now for uid in taken if uid not in self._held_by_dead_worker}
        for uid, item in waiting.items():
            if now - self._since[uid] > self._limit:
                _answer(item, 504, LATE)
            elif now - self._held_by_dead_worker.get(uid, now) > WORKER_DRAIN_SECONDS:
                _answer(item, 503, KILLED)
        self._held_by_dead_worker = {uid: seen for uid, seen in self._held_by_dead_worker.items() if uid in waiting}

    def _waiting(self) -> Iterator[tuple[str, Any]]:
        return ((uid, item) for uid, item in self._buffer.items() if not item.event.is_set())


def _answer(item: Any, status: int, detail: str) -> None:
    item.response = HTTPException(status, detail), LitAPIStatus.ERROR
    item.event.set()


async def until_alive(alive: Callable[[], bool], seconds: float) -> None:
    """Wait for a worker: what is queued while none is running may be lost with the queue's last reader."""
    until = time.monotonic() + seconds
    with contextlib.suppress(asyncio.CancelledError):
        while not alive() and time.monotonic() < until:
            await asyncio.sleep(POLL_SECONDS)
