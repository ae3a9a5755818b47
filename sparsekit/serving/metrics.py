"""What Prometheus reads from `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ModelMetrics:
    """Of one model: the texts in each batch, and those that wait."""

    def __init__(self, batch: Histogram, queue: Gauge, model: str) -> None:
        self.batch, self.queue = batch.labels(model), queue.labels(model)
        self.queue.set(0)


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sparsekit_requests",
            "Requests answered",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "sparsekit_request_seconds",
            "Seconds from a request's first byte to the end of its answer",
            ("endpoint",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "sparsekit_batch_texts",
            "Texts computed at once",
            ("model",),
            buckets=SIZES,
            registry=self._registry,
        )
        self._queue = Gauge(
            "sparsekit_queue_texts", "Texts that wait", ("model",), registry=self._registry
        )

    def of(self, model: str) -> ModelMetrics:
        """The metrics of the model with this name."""
        return ModelMetrics(self._batch, self._queue, model)

    def text(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self._registry)
