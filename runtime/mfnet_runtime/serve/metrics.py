"""Metrics of the service, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one service.

    Args:
        in_progress: Returns the number of requests that are accepted and not yet answered.

    Attributes:
        registry: To be written by `prometheus_client.generate_latest`.
    """

    def __init__(self, in_progress: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "mfnet_requests", "Requests by status.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "mfnet_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["route"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.windows = Counter(
            "mfnet_windows", "Windows inferred, or skipped as empty.", registry=self.registry
        )
        queue = Gauge(
            "mfnet_queue",
            "Requests that upload, wait or run.",
            registry=self.registry,
        )
        queue.set_function(in_progress)

    def count(self, route: str, status: str, seconds: float) -> None:
        """Count a request that was answered, or whose client has gone."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)
