"""Responses to the requests of a killed worker: 503.

LitServe looks for such requests in its main process, where there are none, so they would hang for ever.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from litserve.utils import LitAPIStatus

POLL_SECONDS = 0.1  # seconds
WORKER_DRAIN_SECONDS = 0.5  # seconds after a worker's death in which its last responses may still arrive
KILLED = "the worker that held this request was killed: send it again"


class PendingRequestReaper:
    """An asyncio task of the API process."""

    def __init__(self, pending: dict[str, Any], is_alive: Callable[[], bool]) -> None:
        """pending: LitServe's ResponseBufferItem by uid. is_alive: whether a worker is running."""
        self._pending, self._is_alive = pending, is_alive
        self._orphaned_at: dict[str, float] = {}  # uid -> when its worker was dead for the first time

    async def run(self) -> None:
        """Scan until cancelled. Ends the process if the server's main process is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            self.scan(time.monotonic())
            await asyncio.sleep(POLL_SECONDS)
        os._exit(1)  # an orphan would go on holding the port

    def scan(self, now: float) -> None:
        """Respond to the orphaned requests. now: monotonic seconds."""
        pending = {uid: item for uid, item in self._pending.items() if not item.event.is_set()}
        alive = self._is_alive()
        self._orphaned_at = {
            uid: self._orphaned_at.get(uid, now)
            for uid, item in pending.items()
            if uid in self._orphaned_at or (not alive and item.worker_id is not None)
        }
        for uid, orphaned_at in self._orphaned_at.items():
            if now - orphaned_at > WORKER_DRAIN_SECONDS:
                pending[uid].response = HTTPException(503, KILLED), LitAPIStatus.ERROR
                pending[uid].event.set()


async def wait_until_alive(is_alive: Callable[[], bool]) -> None:
    """Wait for a worker: a request that is queued without one may be lost with the queue's last reader."""
    while not is_alive():
        await asyncio.sleep(POLL_SECONDS)
