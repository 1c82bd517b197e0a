"""LitServe's loop in the worker: sleeps while idle and predicts all waiting requests as one batch."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(eq=False)
class StartedBatch:
    """A batch that is being predicted. items: consumer, uid, request by number, of those without a response yet."""

    items: dict[int, tuple]
    steps: Iterator[tuple[list[int], list[InferenceResponse]]]


class BatchLoop(LitLoop):
    """Takes all requests that wait; waits for more only if the last batch had several.

    `lit_api.predict` yields a batch in steps: first what needs no photo, then a few photos at a time. Between two steps
    with photos, the next batch is taken and its text predicted: text waits for one step at most. Photos that are taken
    and not predicted yet are at most a batch: the others wait in the queue, where those that are too late are dropped.
    """

    def __init__(self, size: int, wait: float) -> None:
        """size: products at most in a batch; wait: seconds."""
        super().__init__()
        self._size, self._wait = size, wait
        self._concurrent = False
        self._started: deque[StartedBatch] = deque()

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
            if self._step(lit_api, request_queue, transport):
                idle_since = time.monotonic()
                continue
            lit_api.on_idle()
            if stopping.is_set() and time.monotonic() - idle_since > DRAIN_SECONDS:
                break
        lit_api.close()

    def _step(self, lit_api: Any, queue: RequestQueue, transport: MessageTransport) -> bool:
        """Take a batch and predict its text, then some photos of the oldest batch. Return whether there was any."""
        batch = self._next_batch(queue, transport, lit_api.time_limit)
        if batch:
            steps = lit_api.predict([request for *_, request in batch])
            self._started.append(StartedBatch(dict(enumerate(batch)), steps))
            self._respond(self._started[-1], lit_api, transport)
        if self._started:
            self._respond(self._started[0], lit_api, transport)
            return True
        return bool(batch)

    def _respond(self, batch: StartedBatch, lit_api: Any, transport: MessageTransport) -> None:
        """Predict the next step of a batch and send the responses."""
        for row, response in zip(*next(batch.steps), strict=True):
            consumer, uid, _ = batch.items.pop(row)
            self.put_response(transport, consumer, uid, response, LitAPIStatus.OK, LoopResponseType.REGULAR)
        lit_api.after_batch()
        if not batch.items:
            self._started.remove(batch)

    def _next_batch(self, queue: RequestQueue, transport: MessageTransport, time_limit: float) -> list[tuple]:
        """Take (consumer, uid, request) of the waiting requests that are within the time limit."""
        batch: list[tuple] = []
        photos = self._size - sum(len(started.items) for started in self._started)
        patient = not self._started
        try:
            items = queue.take(self._size, photos, POLL_SECONDS * patient)
            deadline = time.monotonic() + self._wait * (self._concurrent and patient)
            while 0 < len(items) < self._size and (remaining := deadline - time.monotonic()) > 0:
                items += queue.take(self._size - len(items), self._size - len(items), remaining)
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
