"""Metrics of the API process for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.litserve_adapter.status import READY, Status
from serving.web.middleware import PREDICT_PATH, RequestRecord

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of this process, and the worker's own figures as it last told them."""

    def __init__(self, status: Callable[[], Status], waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("rakuten_requests", "Answers of /predict", ["status"], registry=self._registry)
        self._seconds = Histogram(
            "rakuten_request_seconds", "Time to an answer of /predict", buckets=SECONDS, registry=self._registry
        )
        self._feedback = Counter("rakuten_feedback", "True codes that were told", registry=self._registry)
        self._registry.register(_WorkerFigures(status, waiting))

    def observe_request(self, record: RequestRecord) -> None:
        """Count a request that was answered."""
        if record.path == PREDICT_PATH:
            self._requests.labels(str(record.status)).inc()
            self._seconds.observe(record.seconds)

    def count_feedback(self) -> None:
        """Count feedback."""
        self._feedback.inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _WorkerFigures:
    def __init__(self, status: Callable[[], Status], waiting: Callable[[], int]) -> None:
        self._status, self._waiting = status, waiting

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield GaugeMetricFamily("rakuten_waiting", "Requests to /predict without an answer yet", self._waiting())
        yield GaugeMetricFamily("rakuten_ready", "1 if a champion is loaded", float(status.state == READY))
        yield CounterMetricFamily("rakuten_reloads", "Champions taken over from another", status.reloads)
        yield CounterMetricFamily("rakuten_failed_reloads", "Champions that could not be loaded", status.failed_reloads)
        version = GaugeMetricFamily("rakuten_model", "The champion that serves", labels=["model", "version"])
        if status.state == READY:
            version.add_metric([status.model, status.version], 1)
        yield version
        yield _batches(status.batches)


def _batches(batches: dict[str, int]) -> HistogramMetricFamily:
    sizes = {int(size): count for size, count in batches.items()}
    total = sum(sizes.values())
    buckets = [(str(bound), sum(n for size, n in sizes.items() if size <= bound)) for bound in BATCHES]
    products = sum(size * n for size, n in sizes.items())
    return HistogramMetricFamily(
        "rakuten_batch_size", "Products answered together", buckets=[*buckets, ("+Inf", total)], sum_value=products
    )
