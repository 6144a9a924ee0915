"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server; several may be in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("npsiglip_requests", "Requests that were answered.", ["route", "status"], **own)
        self.seconds = Histogram(
            "npsiglip_request_seconds", "From a request's last byte to its answer.", ["route"], buckets=SECONDS, **own
        )
        self.batches = Histogram(
            "npsiglip_batch_size",
            "Pictures or texts that went through a tower together.",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            **own,
        )
        self.kernels = Counter("npsiglip_kernel_seconds", "Seconds in which the worker computed.", **own)
        self.cached = Counter("npsiglip_cache", "Embeddings that were looked for.", ["found"], **own)
        self.cancelled = Counter("npsiglip_cancelled", "Requests whose client went away.", **own)
        self.loads = Counter("npsiglip_model_loads", "Times that a model was loaded.", ["model"], **own)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is shown."""
        Gauge(f"npsiglip_{name}", what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it."""
        text: bytes = generate_latest(self.registry)
        return text
