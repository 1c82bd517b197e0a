"""Metrics of the API process for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.web.middleware import RequestRecord
from serving.worker_status import READY, Status

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of this process, and those that the worker published last."""

    def __init__(self, status: Callable[[], Status], waiting: Callable[[], int]) -> None:
        """waiting: number of products in progress."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("rakuten_requests", "Products predicted or refused", ["status"], registry=registry)
        self._seconds = Histogram(
            "rakuten_request_seconds", "Time to the response to a product", buckets=SECONDS, registry=registry
        )
        self._feedback = Counter("rakuten_feedback", "True type codes received", registry=registry)
        self._status, self._waiting = status, waiting
        registry.register(self)  # as the collector of the worker's status

    def observe_request(self, request: RequestRecord) -> None:
        """Count a product that was predicted or refused."""
        self._requests.labels(str(request.status)).inc()
        self._seconds.observe(request.seconds)

    def count_feedback(self) -> None:
        """Count a true type code."""
        self._feedback.inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the worker and of the products in progress. prometheus_client calls it."""
        status = self._status()
        yield GaugeMetricFamily(
            "rakuten_waiting", "Products in progress; of a batch, the places that it takes", self._waiting()
        )
        yield GaugeMetricFamily("rakuten_ready", "1 if a champion is loaded", float(status.state == READY))
        yield CounterMetricFamily("rakuten_reloads", "Champions that replaced another", status.reloads)
        yield CounterMetricFamily("rakuten_failed_reloads", "Champions that could not be loaded", status.failed_reloads)
        skipped = "Photos that predictions did without, as the text had settled them"
        yield CounterMetricFamily("rakuten_skipped_photos", skipped, status.skipped_photos)
        members = CounterMetricFamily("rakuten_members", "Predictions that a member took part in", labels=["member"])
        for name, count in status.members.items():
            members.add_metric([name], count)
        yield members
        version = GaugeMetricFamily("rakuten_model", "The champion that serves", labels=["model", "version"])
        if status.state == READY:
            version.add_metric([status.model, status.version], 1)
        yield version
        sizes = {int(size): count for size, count in status.batches.items()}
        buckets = [(str(bound), sum(n for size, n in sizes.items() if size <= bound)) for bound in BATCH_SIZES]
        yield HistogramMetricFamily(
            "rakuten_batch_size",
            "Products predicted together",
            buckets=[*buckets, ("+Inf", sum(sizes.values()))],
            sum_value=sum(size * n for size, n in sizes.items()),
        )
