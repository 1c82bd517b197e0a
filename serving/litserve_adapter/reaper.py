"""Responses in place of the worker's: 504 to requests that waited too long, 503 to those of a killed worker.

LitServe looks for such requests in its main process, where there are none, so they would hang for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from litserve.utils import LitAPIStatus

POLL_SECONDS = 0.1  # seconds
WORKER_DRAIN_SECONDS = 0.5  # seconds after a worker's death in which its last responses may still arrive
KILLED = "the worker that held this request was killed: send it again"
LATE = "no answer within the time limit"


class PendingRequestReaper:
    """An asyncio task of the API process."""

    def __init__(self, pending: dict[str, Any], is_alive: Callable[[], bool], time_limit: float) -> None:
        """pending: LitServe's ResponseBufferItem by uid. is_alive: whether a worker is running. time_limit: seconds."""
        self._pending, self._is_alive, self._time_limit = pending, is_alive, time_limit
        self._waiting_since: dict[str, float] = {}
        self._orphaned_at: dict[str, float] = {}  # uid -> when its worker was dead for the first time

    async def run(self) -> None:
        """Scan until cancelled. Ends the process if the server's main process is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            self.scan(time.monotonic())
            await asyncio.sleep(POLL_SECONDS)
        os._exit(1)  # an orphan would go on holding the port

    def scan(self, now: float) -> None:
        """Respond to the pending requests that are late or orphaned."""
        pending = {uid: item for uid, item in self._pending.items() if not item.event.is_set()}
        alive = self._is_alive()
        self._waiting_since = {uid: self._waiting_since.get(uid, now) for uid in pending}
        self._orphaned_at = {
            uid: self._orphaned_at.get(uid, now)
            for uid, item in pending.items()
            if uid in self._orphaned_at or (not alive and item.worker_id is not None)
        }
        for uid, item in pending.items():
            if now - self._waiting_since[uid] > self._time_limit:
                _respond(item, HTTPException(504, LATE))
            elif now - self._orphaned_at.get(uid, now) > WORKER_DRAIN_SECONDS:
                _respond(item, HTTPException(503, KILLED))


def _respond(item: Any, error: HTTPException) -> None:
    item.response = error, LitAPIStatus.ERROR
    item.event.set()


async def wait_until_alive(is_alive: Callable[[], bool], seconds: float) -> None:
    """Wait for a worker: a request that is queued without one may be lost with the queue's last reader."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(asyncio.CancelledError):
        while not is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
