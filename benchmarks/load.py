"""Load on a server or on the bare predictor: rates, latencies, processor time. For benchmarks/serving.py."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.server_process import Process
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product


@dataclass(frozen=True)
class LoadMetrics:
    """Metrics of one system. rate: products per second. p50, p99: ms. cpu: processor ms a product, the least noisy."""

    rate: float
    p50: float
    p99: float
    cpu: float


def load_metrics(seconds: list[float], wall: float, cpu: float, products: int = 1) -> LoadMetrics:
    """Compute them from the seconds of each call of `products`, the wall-clock time and the processor time."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    count = len(seconds) * products
    return LoadMetrics(count / wall, float(p50), float(p99), 1000 * cpu / count)


def best(rounds: list[LoadMetrics]) -> LoadMetrics:
    """Return the round with the highest rate."""
    return max(rounds, key=lambda round_: round_.rate)


def bare(predictor: Predictor, products: Sequence[Product], batch: int, seconds: float) -> LoadMetrics:
    """Measure the predictor in a loop over the products."""
    times: list[float] = []
    ends, at = time.perf_counter() + seconds, 0
    started, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < ends or not times:
        chosen = [products[(at + i) % len(products)] for i in range(batch)]
        before = time.perf_counter()
        predictor.score(chosen)
        times.append(time.perf_counter() - before)
        at += batch
    return load_metrics(times, time.perf_counter() - started, time.process_time() - cpu, batch)


def load_test(server: Process, bodies: Sequence[bytes], clients: int, seconds: float) -> LoadMetrics:
    """Measure `clients` with persistent connections, each with one request at a time, in a loop over the bodies."""
    times: list[float] = []
    ends = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        at = number
        while time.perf_counter() < ends:
            before = time.perf_counter()
            connection.request("POST", "/predict", bodies[at % len(bodies)], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server on port {server.port} answered {answer.status}")
            times.append(time.perf_counter() - before)
            at += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    started, cpu = time.perf_counter(), server.cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load_metrics(times, time.perf_counter() - started, server.cpu_seconds() - cpu)
