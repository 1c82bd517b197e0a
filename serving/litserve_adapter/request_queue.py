"""The queue between the API process and the worker: text does not wait behind photos, which take far longer."""

from __future__ import annotations

from collections import deque
from multiprocessing.managers import BaseProxy, SyncManager
from threading import Condition

Item = tuple  # consumer, uid, queued_at in monotonic seconds, InferenceRequest
PHOTO_SHARE = 4  # of this many places in a batch, one is a photo's where photos wait: text alone cannot hold them up


class RequestQueue:
    """Two queues, of requests with and without a photo. Lives in LitServe's manager; other processes hold a proxy."""

    def __init__(self) -> None:
        self._texts: deque[Item] = deque()
        self._photos: deque[Item] = deque()
        self._filled = Condition()

    def put(self, item: Item, has_photo: bool) -> None:
        """Append a request."""
        with self._filled:
            (self._photos if has_photo else self._texts).append(item)
            self._filled.notify()

    def take(self, size: int, photos: int, timeout: float) -> list[Item]:
        """Remove the oldest requests, `size` at most, those with a photo last and `photos` of them at most.

        Waits up to `timeout` seconds for one.
        """
        with self._filled:
            self._filled.wait_for(lambda: self._texts or self._photos, timeout)
            photos = min(len(self._photos), photos, max(size - len(self._texts), size // PHOTO_SHARE))
            texts = min(len(self._texts), size - photos)
            return [self._texts.popleft() for _ in range(texts)] + [self._photos.popleft() for _ in range(photos)]


class RequestQueueProxy(BaseProxy):
    """The queue in another process."""

    _exposed_ = ("put", "take")

    def put(self, item: Item, has_photo: bool) -> None:
        """Call `RequestQueue.put`."""
        self._callmethod("put", (item, has_photo))

    def take(self, size: int, photos: int, timeout: float) -> list[Item]:
        """Call `RequestQueue.take`."""
        return self._callmethod("take", (size, photos, timeout))  # type: ignore[func-returns-value, return-value]


class RequestQueueManager(SyncManager):
    """LitServe's manager, which has such a queue too."""


RequestQueueManager.register("RequestQueue", RequestQueue, RequestQueueProxy)
