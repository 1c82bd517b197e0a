"""Rejected requests on their way to the prediction log: about a row a second for each status and reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rakuten_tasks.monitoring.columns import REJECTED
from serving.web.middleware import RequestRecord

FLUSH_SECONDS = 0.7  # with the log writer's own pause, SIGKILL loses at most the last second
MAX_ROWS = 50  # rows per flush: what clients send must not decide how fast the log grows
OTHER = "various"


class RejectionAggregator:
    """Counter of rejected requests, so that overload does not fill the disk (37 MB in 30 s with a row for each)."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        """write: writes a row of the prediction log."""
        self._write = write
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}

    def add(self, request: RequestRecord) -> None:
        """Count one request. Its row has the time and the id of the first."""
        key = (request.status, request.reason)
        if key not in self._rows and len(self._rows) >= MAX_ROWS:
            key = (request.status, OTHER)
        if key not in self._rows:
            self._rows[key] = {
                "time": datetime.now(UTC).isoformat(),
                "kind": REJECTED,
                "request_id": request.request_id,
                "status": key[0],
                "reason": key[1],
                "requests": 0,
            }
        self._rows[key]["requests"] += 1

    def flush(self) -> None:
        """Write the rows and begin new ones."""
        rows, self._rows = self._rows, {}
        for row in rows.values():
            self._write(row)
