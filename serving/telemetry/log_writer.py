"""Writer of the prediction log, in a thread of its own, so that requests are answered first."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rakuten_tasks.monitoring.prediction_log import LogSegment, compact_segments, expire

log = logging.getLogger(__name__)

WAITING = 2000  # records at most
HELD = 64_000_000  # bytes at most of the photos that wait with them
PAUSE = 0.2  # seconds between writes: SIGKILL loses at most what came since
SWEEP = 60.0  # seconds between looks for hours to close and to forget

Record = dict[str, Any]


class PredictionLogWriter:
    """Appends records in order. A record may be given as a function, which the thread calls."""

    def __init__(self, folder: Path, writer: str, keep: tuple[str, timedelta] | None = None) -> None:
        """keep: where closed hours go and for how long; None for a process that leaves that to another."""
        self._file = LogSegment(folder, writer)
        self._folder, self._keep = folder, keep
        self._waiting: deque[tuple[Record | Callable[[], Record], int]] = deque()
        self._held, self._room = 0, threading.Condition()
        self._stop, self._wake = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._swept = 0.0

    def start(self) -> None:
        """After this process has forked what it forks."""
        self._thread.start()

    def add(self, record: Record | Callable[[], Record], size: int = 0) -> None:
        """Takes microseconds; waits only where the disk is two thousand records behind, or too many bytes wait.

        size: bytes that the record holds until it is made.
        """
        with self._room:
            while self._waiting and (len(self._waiting) >= WAITING or self._held + size > HELD):
                self._wake.set()
                self._room.wait()
            self._waiting.append((record, size))
            self._held += size

    def close(self) -> None:
        """Write what waits."""
        self._stop = True
        self._wake.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while not self._stop:
            self._write()
            if self._keep and time.monotonic() - self._swept > SWEEP:
                self._sweep(*self._keep)
                self._swept = time.monotonic()
            self._wake.wait(PAUSE)
            self._wake.clear()
        self._write()

    def _write(self) -> None:
        while self._waiting:
            records: list[Record] = []
            # a few at a time, so that those which are costly to make do not hold up the others
            while len(records) < 32 and self._waiting:
                records += self._pop()
            try:
                self._file.append(records)
            except OSError:
                log.exception("%d records of the prediction log could not be written", len(records))

    def _pop(self) -> list[Record]:
        record, size = self._waiting.popleft()
        made = self._materialize(record)
        del record  # and its photo
        with self._room:
            self._held -= size
            self._room.notify_all()
        return made

    @staticmethod
    def _materialize(record: Record | Callable[[], Record]) -> list[Record]:
        try:
            return [record() if callable(record) else record]
        except Exception:
            log.exception("a record of the prediction log could not be made")
            return []

    def _sweep(self, address: str, keep: timedelta) -> None:
        try:
            now = datetime.now(UTC)
            compact_segments(self._folder, address, now)
            expire(address, keep, now)
        except Exception:  # whatever a remote store raises: the open files stay until it answers again
            log.exception("hours of the prediction log could not be closed: trying again in a minute")
