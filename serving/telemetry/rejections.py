"""Rejected requests on their way to the prediction log: about a row a second for each status and reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rakuten_tasks.monitoring.columns import REJECTED
from serving.web.middleware import RequestRecord

FLUSH = 0.7  # seconds: with the log writer's own pause, SIGKILL loses at most the last second
REASONS = 50  # rows at once at most: what a client sends must not decide how large the log grows
VARIOUS = "various"


@dataclass
class _Tally:
    """time, request_id: of the first."""

    time: str
    request_id: str
    requests: int = 0


class RejectionAggregator:
    """Counts what was refused, so that too much load does not fill the disk (37 MB in 30 s with a row for each)."""

    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        """record: takes a row."""
        self._record = record
        self._tallies: dict[tuple[int, str], _Tally] = {}

    def add(self, record: RequestRecord) -> None:
        """Count one."""
        key = (record.status, record.reason)
        if key not in self._tallies and len(self._tallies) >= REASONS:
            key = (record.status, VARIOUS)
        tally = self._tallies.setdefault(key, _Tally(datetime.now(UTC).isoformat(), record.request_id))
        tally.requests += 1

    def flush(self) -> None:
        """Hand on what has been counted."""
        tallies, self._tallies = self._tallies, {}
        for (status, reason), tally in tallies.items():
            about = {"request_id": tally.request_id, "status": status, "reason": reason, "requests": tally.requests}
            self._record({"time": tally.time, "kind": REJECTED, **about})
