"""Ids of recent predictions."""

from __future__ import annotations

from collections import OrderedDict


class RecentIds:
    """Set of the last `size` request ids."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: OrderedDict[bytes, None] = OrderedDict()  # 16 bytes each, not 32 letters

    def add(self, request_id: str) -> None:
        """Add an id, and drop the oldest beyond `size`."""
        self._ids[bytes.fromhex(request_id)] = None
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def __contains__(self, request_id: str) -> bool:
        return bytes.fromhex(request_id) in self._ids
