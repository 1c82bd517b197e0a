"""Writer of the prediction log, in a thread of its own, so that responses do not wait for it."""

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

MAX_ROWS = 2000  # rows that wait at most
MAX_BYTES = 64_000_000  # bytes at most of the photos that wait with them
ROWS_PER_WRITE = 32  # few, so that rows that are slow to build do not delay the others
PAUSE = 0.2  # seconds between writes: SIGKILL loses at most the rows of that time
COMPACT_SECONDS = 60.0  # seconds between checks for hours to close and to delete

Row = dict[str, Any]


class PredictionLogWriter:
    """Appends rows in order. A row may be a function, which the writer's thread calls."""

    def __init__(self, folder: Path, writer: str, archive: tuple[str, timedelta] | None = None) -> None:
        """archive: address of closed hours and their age at deletion; None if another process closes hours."""
        self._segment = LogSegment(folder, writer)
        self._folder, self._archive = folder, archive
        self._queue: deque[tuple[Row | Callable[[], Row], int]] = deque()
        self._bytes, self._has_space = 0, threading.Condition()
        self._stop, self._wake = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._compacted_at = 0.0

    def start(self) -> None:
        """Start the thread. Call it after the process has forked its children."""
        self._thread.start()

    def add(self, row: Row | Callable[[], Row], size: int = 0) -> None:
        """Queue a row, in microseconds; waits only while too many rows or bytes are queued.

        size: bytes that a function holds until it is called.
        """
        with self._has_space:
            while self._queue and (len(self._queue) >= MAX_ROWS or self._bytes + size > MAX_BYTES):
                self._wake.set()
                self._has_space.wait()
            self._queue.append((row, size))
            self._bytes += size

    def close(self) -> None:
        """Write the queued rows and end the thread."""
        self._stop = True
        self._wake.set()
        self._thread.join()
        self._segment.close()

    def _run(self) -> None:
        while not self._stop:
            self._write()
            if self._archive and time.monotonic() - self._compacted_at > COMPACT_SECONDS:
                self._compact(*self._archive)
                self._compacted_at = time.monotonic()
            self._wake.wait(PAUSE)
            self._wake.clear()
        self._write()

    def _write(self) -> None:
        while self._queue:
            rows: list[Row] = []
            while len(rows) < ROWS_PER_WRITE and self._queue:
                rows += self._pop()
            try:
                self._segment.append(rows)
            except OSError:
                log.exception("%d rows of the prediction log could not be written", len(rows))

    def _pop(self) -> list[Row]:
        """Take the next row, as a list that is empty if the row cannot be built."""
        row, size = self._queue.popleft()
        try:
            rows = [row() if callable(row) else row]
        except Exception:
            log.exception("a row of the prediction log could not be built")
            rows = []
        del row  # and its photo
        with self._has_space:
            self._bytes -= size
            self._has_space.notify_all()
        return rows

    def _compact(self, address: str, max_age: timedelta) -> None:
        try:
            now = datetime.now(UTC)
            compact_segments(self._folder, address, now)
            expire(address, max_age, now)
        except Exception:  # whatever a remote store raises: the open files stay until it works again
            log.exception("hours of the prediction log could not be closed: trying again in a minute")
