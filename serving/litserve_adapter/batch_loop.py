"""LitServe's loop in the worker: sleeps while idle and predicts all waiting requests as one batch."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from litserve.loops.base import LitLoop
from litserve.transport.base import MessageTransport
from litserve.utils import LitAPIStatus, LoopResponseType

from serving.litserve_adapter.request_queue import RequestQueue
from serving.schemas import InferenceResponse

# LitServe's own batching polls the queue a thousand times a second, which costs a third of a core while idle. A request
# that a killed worker was about to take from the queue is lost, so a poll is short.
POLL_SECONDS = 0.05
DRAIN_SECONDS = 0.5  # seconds without a request after which a stopping worker expects no more of them


class BatchLoop(LitLoop):
    """Takes all requests that wait; waits for more only if the last batch had several.

    A batch has few requests with a photo, `lit_api.photos_at_once`: one without waits for no more than these few.
    """

    def __init__(self, size: int, wait: float) -> None:
        """size: products at most in a batch; wait: seconds."""
        super().__init__()
        self._size, self._wait = size, wait
        self._concurrent = False

    def __call__(  # LitServe's signature
        self,
        lit_api: Any,
        device: str,
        worker_id: int,
        request_queue: RequestQueue,
        transport: MessageTransport,
        workers_setup_status: dict,
        callback_runner: Any,
    ) -> None:
        stopping = threading.Event()
        parent, idle_since = os.getppid(), time.monotonic()
        signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the main one stops the others
        while os.getppid() == parent:
            batch = self._next_batch(request_queue, transport, lit_api.time_limit, lit_api.photos_at_once)
            if batch:
                self._predict(lit_api, batch, transport)
                idle_since = time.monotonic()
                continue
            lit_api.on_idle()
            if stopping.is_set() and time.monotonic() - idle_since > DRAIN_SECONDS:
                break
        lit_api.close()

    def _next_batch(
        self, queue: RequestQueue, transport: MessageTransport, time_limit: float, photos: int
    ) -> list[tuple]:
        """Take (consumer, uid, request) of the waiting requests that are within the time limit."""
        batch: list[tuple] = []
        try:
            items = queue.take(self._size, photos, POLL_SECONDS)
            deadline = time.monotonic() + self._wait * self._concurrent
            while 0 < len(items) < self._size and (remaining := deadline - time.monotonic()) > 0:
                photos -= sum(request.photo is not None for *_, request in items)
                items += queue.take(self._size - len(items), photos, remaining)
            for item in items:
                self._accept(item, batch, transport, time_limit)
        except (EOFError, OSError):  # the queue's process has ended: so does the server
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(POLL_SECONDS)
        if batch:
            self._concurrent = len(batch) > 1
        return batch

    def _accept(self, item: tuple, batch: list[tuple], transport: MessageTransport, time_limit: float) -> None:
        consumer, uid, queued_at, request = item
        if time.monotonic() - queued_at > time_limit:
            return  # its client has the 504 already
        # the API process learns which requests die with this worker
        self.put_response(transport, consumer, uid, (), LitAPIStatus.START, LoopResponseType.REGULAR)
        batch.append((consumer, uid, request))

    def _predict(self, lit_api: Any, batch: list[tuple], transport: MessageTransport) -> None:
        """Predict and respond: those without a photo first, as the others take fifty times as long."""
        for with_photo in (False, True):
            part = [item for item in batch if (item[2].photo is not None) == with_photo]
            if not part:
                continue
            responses: list[InferenceResponse] = lit_api.predict([request for _, _, request in part])
            for (consumer, uid, _), response in zip(part, responses, strict=True):
                self.put_response(transport, consumer, uid, response, LitAPIStatus.OK, LoopResponseType.REGULAR)
            lit_api.after_batch()
