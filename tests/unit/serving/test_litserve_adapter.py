"""Contracts of the private and undocumented names that serving/litserve_adapter uses."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Any

import litserve
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from litserve.connector import check_cuda_with_nvidia_smi
from litserve.loops import inference_worker
from litserve.loops.base import LitLoop
from litserve.server import response_queue_to_buffer
from litserve.utils import LitAPIStatus, LoopResponseType, ResponseBufferItem, WorkerSetupStatus

from serving import litserve_adapter
from serving.litserve_adapter.batch_loop import BatchLoop
from serving.litserve_adapter.reaper import KILLED, WORKER_DRAIN_SECONDS, PendingRequestReaper, wait_until_alive
from serving.litserve_adapter.request_queue import RequestQueue
from serving.litserve_adapter.server import SingleWorkerServer
from serving.schemas import InferenceRequest


class StubAPI(litserve.LitAPI):
    """Answers with the request's id: what is called text first, then four photos at a time. Keeps these steps."""

    time_limit = 10.0

    def setup(self, device: str) -> None:
        self.batches: list[list[str]] = []
        self.after: list[int] = []  # responses that were sent before each call of after_batch

    def predict(self, requests: list[InferenceRequest]) -> Iterator[tuple[list[int], list[str]]]:
        ids = [request.request_id for request in requests]
        texts = [row for row, name in enumerate(ids) if not name.startswith("photo")]
        photos = [row for row in range(len(ids)) if row not in texts]
        for rows in [texts, *(photos[start : start + 4] for start in range(0, len(photos), 4))]:
            self.batches.append([ids[row] for row in rows])
            yield rows, self.batches[-1]

    def after_batch(self) -> None:
        self.after.append(sum(map(len, self.batches)))


@pytest.fixture
def server() -> SingleWorkerServer:
    return SingleWorkerServer(StubAPI(max_batch_size=4, loop=BatchLoop(4, 0.0)), shutdown_seconds=45)


def inference_request(name: str, photo: bytes | None = None) -> InferenceRequest:
    return InferenceRequest(name, "", "roman", photo, top_k=1, explain=False)


def names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("version", ["0.2.18", "0.3.0", "1.0.0"])
def test_another_version_of_litserve_is_refused_at_import(version, monkeypatch):
    monkeypatch.setattr(litserve, "__version__", version)
    with pytest.raises(ImportError, match=rf"litserve {version} is not supported: install litserve>=0.2.19,<0.3"):
        importlib.reload(litserve_adapter)
    monkeypatch.undo()
    importlib.reload(litserve_adapter)


def test_the_methods_that_the_adapter_overrides_exist_with_these_parameters():
    parent = litserve.LitServer
    assert names(parent._init_manager) == ["self", "num_api_servers"]
    assert names(parent._start_server)[:6] == [
        "self", "port", "num_uvicorn_servers", "log_level", "sockets", "uvicorn_worker_type",
    ]  # fmt: skip
    assert names(parent.launch_inference_worker) == ["self", "lit_api"]
    assert names(parent.launch_single_inference_worker) == ["self", "lit_api", "worker_id"]
    assert names(parent._perform_graceful_shutdown) == ["self", "manager", "uvicorn_workers", "shutdown_reason"]
    assert names(LitLoop.__call__) == names(BatchLoop.__call__)


def test_the_worker_process_takes_these_arguments():
    assert names(inference_worker) == [
        "lit_api", "device", "worker_id", "request_queue", "transport", "workers_setup_status", "callback_runner",
        "restart_workers",
    ]  # fmt: skip
    assert WorkerSetupStatus.STARTING
    source = inspect.getsource(litserve.LitServer.launch_single_inference_worker)
    for name in ("_get_request_queue", "_transport", "workers_setup_status", "_callback_runner", "restart_workers"):
        assert f"self.{name}" in source
    assert callable(check_cuda_with_nvidia_smi)


def test_the_attributes_that_the_adapter_sets_are_those_that_litserve_reads(server):
    source = inspect.getsource(litserve.LitServer)
    for name in ("monitor_internal", "uvicorn_graceful_timeout", "_shutdown_event", "devices", "response_buffer"):
        assert hasattr(server, name)
        assert f"self.{name}" in source
    assert server.uvicorn_graceful_timeout == 45
    # what _init_manager is expected to call, and what replaces it for a moment
    assert "mp.Manager()" in inspect.getsource(litserve.LitServer._init_manager)
    assert callable(multiprocessing.Manager)


def test_the_helper_processes_of_multiprocessing_can_be_stopped():
    assert callable(forkserver._forkserver._stop)  # type: ignore[attr-defined]
    assert callable(resource_tracker._resource_tracker._stop)  # type: ignore[attr-defined]


def test_of_litserves_routes_only_the_openapi_document_is_left(server):
    assert [route.path for route in server.app.router.routes] == ["/openapi.json"]


def test_a_lifespan_is_entered_at_the_start_of_the_app_and_left_at_its_end(server):
    events: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        events.append("start")
        yield
        events.append("end")

    server.app.router.lifespan_context = FastAPI().router.lifespan_context  # LitServe's own needs running workers
    server.add_lifespan(context)
    with TestClient(server.app):
        assert events == ["start"]
    assert events == ["start", "end"]


class FakeTransport:
    """Keeps what the worker sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, LitAPIStatus]] = []

    def send(self, response: Any, consumer_id: int) -> None:
        uid, (data, status, *_) = response
        self.sent.append((uid, data, status))


class Worker:
    """The loop in this process, with a stub of the predictor."""

    def __init__(self, size: int) -> None:
        self.loop, self.transport, self.queue = BatchLoop(size, 0.0), FakeTransport(), RequestQueue()
        self.loop._restart_workers = True  # as inference_worker sets it
        self.api = StubAPI(max_batch_size=size)
        self.api.setup("cpu")

    def put(self, name: str, photo: bool = False, age: float = 0.0) -> None:
        request = inference_request(name, b"" if photo else None)
        self.queue.put((0, name, time.monotonic() - age, request), photo)

    def step(self) -> bool:
        """Return whether there was anything to predict."""
        return self.loop._step(self.api, self.queue, self.transport)

    def sent(self, status: LitAPIStatus) -> list[str]:
        return [uid for uid, _, sent_status in self.transport.sent if sent_status == status]


def test_the_loop_predicts_waiting_requests_together_and_drops_late_ones():
    worker = Worker(size=4)
    for number in range(6):
        worker.put(f"id{number}", age=100 if number == 1 else 0)
    while worker.step():
        pass
    assert worker.api.batches == [["id0", "id2", "id3"], ["id4", "id5"]]
    assert worker.api.after == [3, 5]
    assert {uid: data for uid, data, status in worker.transport.sent if status == LitAPIStatus.OK} == {
        uid: uid for uid in ("id0", "id2", "id3", "id4", "id5")
    }
    assert worker.sent(LitAPIStatus.START) == worker.sent(LitAPIStatus.OK)
    assert LoopResponseType.REGULAR


def test_text_waits_for_no_more_photos_than_are_predicted_at_once():
    worker = Worker(size=16)
    for number in range(40):
        worker.put(f"photo{number}", photo=True)
    for number in range(10):  # one arrives while each of the steps is predicted
        worker.step()
        worker.put(f"text{number}")
    sent = worker.sent(LitAPIStatus.OK)
    assert sent[:4] == [f"photo{number}" for number in range(4)]
    for number in range(9):
        start = 4 + 5 * number
        assert sent[start : start + 5] == [f"text{number}", *(f"photo{4 * number + i}" for i in range(4, 8))]


def test_a_text_that_settles_a_product_with_a_photo_waits_for_no_photo_of_its_batch():
    worker = Worker(size=16)
    for number in range(9):
        worker.put(f"photo{number}", photo=True)
    for number in range(3):
        worker.put(f"settled{number}", photo=True)
    worker.step()
    assert worker.api.batches == [[f"settled{i}" for i in range(3)], [f"photo{i}" for i in range(4)]]
    worker.step()
    worker.put("settled3", photo=True)
    worker.step()
    assert worker.sent(LitAPIStatus.OK)[7:] == [*(f"photo{i}" for i in range(4, 8)), "settled3", "photo8"]


def test_photos_that_wait_in_the_worker_are_at_most_a_batch():
    worker = Worker(size=8)
    for number in range(30):
        worker.put(f"photo{number}", photo=True)
    for _ in range(3):
        worker.step()
    assert len(worker.sent(LitAPIStatus.START)) == 16
    assert worker.sent(LitAPIStatus.OK) == [f"photo{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("size", "texts", "photos", "expected"),
    [
        (16, 3, 9, (3, 4)),
        (16, 99, 9, (12, 4)),
        (16, 99, 1, (15, 1)),
        (4, 99, 9, (3, 1)),
        (1, 0, 9, (0, 1)),
        (1, 9, 0, (1, 0)),
    ],
)
def test_neither_text_nor_photos_hold_up_the_others(size, texts, photos, expected):
    requests = RequestQueue()
    for i in range(texts):
        requests.put((0, f"text{i}", 0.0, None), False)
    for i in range(photos):
        requests.put((0, f"photo{i}", 0.0, None), True)
    taken = [uid for _, uid, _, _ in requests.take(size, 4, 0.0)]
    assert taken == [f"text{i}" for i in range(expected[0])] + [f"photo{i}" for i in range(expected[1])]
    assert RequestQueue().take(size, 4, 0.0) == []


def test_the_queue_lives_in_litserves_manager(server):
    with server._init_manager(1):
        queue_proxy = server._get_request_queue("/predict")
        queue_proxy.put((0, "uid", 0.0, inference_request("uid", b"photo")), True)
        assert queue_proxy.take(16, 4, 0.0) == [(0, "uid", 0.0, inference_request("uid", b"photo"))]
        assert queue_proxy.take(16, 4, 0.0) == []
        assert ForkingPickler.dumps(queue_proxy)  # as the worker gets it


async def submit_and_scan(server: SingleWorkerServer, alive: bool, worker: int | None, times: list[float]) -> Any:
    """Submit a request that no worker takes, and scan at these times."""
    server.app.response_queue_id = 0
    server.litapi_request_queues = {"/predict": RequestQueue()}
    reaper = server.reaper(lambda: alive)
    response = asyncio.create_task(server.submit(inference_request("id")))
    await asyncio.sleep(0.01)
    ((consumer, uid, queued_at, payload),) = server._get_request_queue("/predict").take(1, 1, 0.0)
    assert (consumer, payload, type(queued_at)) == (0, inference_request("id"), float)
    server.response_buffer[uid].worker_id = worker
    for moment in times:
        reaper.scan(moment)
    await asyncio.sleep(0.01)
    if not response.done():
        server.response_buffer[uid].response = [42, LitAPIStatus.OK]  # a list, as LitServe makes it
        server.response_buffer[uid].event.set()
    return await response


def test_submit_returns_the_response_of_the_worker(server):
    assert asyncio.run(submit_and_scan(server, alive=True, worker=0, times=[0, 100])) == 42
    # the worker is dead, but its last responses may still arrive; no worker has taken the request
    assert asyncio.run(submit_and_scan(server, alive=False, worker=0, times=[0, WORKER_DRAIN_SECONDS])) == 42
    assert asyncio.run(submit_and_scan(server, alive=False, worker=None, times=[0, 100])) == 42
    assert server.response_buffer == {}


def test_an_orphaned_request_raises_the_reapers_error(server):
    with pytest.raises(HTTPException) as error:
        asyncio.run(submit_and_scan(server, False, 0, [0, WORKER_DRAIN_SECONDS + 0.1]))
    assert (error.value.status_code, error.value.detail) == (503, KILLED)


def test_a_request_of_a_killed_worker_is_lost_even_if_a_new_worker_runs_meanwhile():
    async def scan() -> Any:
        item, alive = ResponseBufferItem(asyncio.Event(), worker_id=0), [False, True]
        reaper = PendingRequestReaper({"id": item}, lambda: alive.pop(0))
        reaper.scan(0)
        reaper.scan(WORKER_DRAIN_SECONDS + 0.1)
        return item.response

    error, status = asyncio.run(scan())
    assert (error.status_code, status) == (503, LitAPIStatus.ERROR)


def test_a_cancelled_request_is_forgotten_and_its_late_response_dropped(server):
    async def cancel() -> None:
        server.litapi_request_queues = {"/predict": RequestQueue()}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.submit(inference_request("id"))

    asyncio.run(cancel())
    assert server.response_buffer == {}
    assert "if response_item is None:\n                    continue" in inspect.getsource(response_queue_to_buffer)


def test_a_lost_queue_is_an_internal_error(server):
    class LostQueue:
        def put(self, item: Any, has_photo: bool) -> None:
            raise BrokenPipeError

    server.litapi_request_queues = {"/predict": LostQueue()}
    with pytest.raises(HTTPException, match="internal error"):
        asyncio.run(server.submit(inference_request("id")))
    assert server.response_buffer == {}


def test_waiting_for_a_worker_ends_with_the_worker():
    alive = [False, True]
    asyncio.run(wait_until_alive(lambda: alive.pop(0)))
    assert alive == []
