"""LitServe's loop in the worker: sleeps while idle, batches what waits; a bad item fails alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from queue import Empty, Queue
from types import FrameType
from typing import Any

from litserve.loops.base import LitLoop
from litserve.transport.base import MessageTransport
from litserve.utils import LitAPIStatus, LoopResponseType

from serving.schemas import InferenceRequest, InferenceResponse

# LitServe's own batching asks the queue a thousand times a second, which keeps a core at a third while idle. A request
# that comes just after a killed worker's last look is lost, so the look is short.
POLL_SECONDS = 0.05
DRAIN_SECONDS = 0.5  # seconds without a request after which a stopping worker believes that none is on its way


class BatchLoop(LitLoop):
    """Takes one request, then all that wait already; waits for company only if the last batch had some."""

    def __init__(self, size: int, wait: float) -> None:
        """size: products at most in a batch; wait: seconds."""
        super().__init__()
        self._size, self._wait = size, wait
        self._concurrent = False

    def __call__(  # what LitServe calls
        self,
        lit_api: Any,
        device: str,
        worker_id: int,
        request_queue: Queue,
        transport: MessageTransport,
        workers_setup_status: dict,
        callback_runner: Any,
    ) -> None:
        stopping = threading.Event()
        parent, idle_since = os.getppid(), time.monotonic()

        def stop(number: int, frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one stops the others
        while os.getppid() == parent:
            batch = self._next_batch(request_queue, transport, lit_api.time_limit)
            if batch:
                self._answer(lit_api, batch, transport)
                idle_since = time.monotonic()
                continue
            lit_api.on_idle()
            if stopping.is_set() and time.monotonic() - idle_since > DRAIN_SECONDS:
                break
        lit_api.close()

    def _next_batch(self, requests: Queue, transport: MessageTransport, time_limit: float) -> list[tuple]:
        """(consumer, uid, request) of what is still wanted."""
        batch: list[tuple] = []
        try:
            self._accept(requests.get(timeout=POLL_SECONDS), batch, transport, time_limit)
            until = time.monotonic() + self._wait * self._concurrent
            while len(batch) < self._size:
                left = until - time.monotonic()
                waiting = requests.get(timeout=left) if left > 0 else requests.get_nowait()
                self._accept(waiting, batch, transport, time_limit)
        except Empty:
            pass
        except (EOFError, OSError):  # the queue's process has ended: so does the server
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(POLL_SECONDS)
        if batch:
            self._concurrent = len(batch) > 1
        return batch

    def _accept(self, item: tuple, batch: list[tuple], transport: MessageTransport, time_limit: float) -> None:
        consumer, uid, moment, asked = item
        if time.monotonic() - moment > time_limit:
            return  # has had its 504
        # tells the API process which requests die with this worker
        self.put_response(transport, consumer, uid, (), LitAPIStatus.START, LoopResponseType.REGULAR)
        batch.append((consumer, uid, asked))

    def _answer(self, lit_api: Any, batch: list[tuple], transport: MessageTransport) -> None:
        asked: list[InferenceRequest] = [item[2] for item in batch]
        answers: list[InferenceResponse] = lit_api.predict(asked)
        for (consumer, uid, _), answer in zip(batch, answers, strict=True):
            self.put_response(transport, consumer, uid, answer, LitAPIStatus.OK, LoopResponseType.REGULAR)
        lit_api.after_batch()
