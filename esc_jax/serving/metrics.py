"""Metrics of the API in the text format of Prometheus."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import esc_jax

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counts requests, sound and time.

    Args:
        model: for the label of `esc_jax_info`.
    """

    def __init__(self, model: str):
        self._registry = CollectorRegistry()
        for collector in (prometheus_client.ProcessCollector, prometheus_client.GCCollector):
            collector(registry=self._registry)
        info = Gauge("esc_jax_info", "Version and model", ["version", "model"], registry=self._registry)
        info.labels(esc_jax.__version__, model).set(1)
        self.requests = Counter("esc_jax_requests", "Answered requests", ["path", "status"], registry=self._registry)
        self.sound = Counter("esc_jax_sound_seconds", "Classified sound, seconds", registry=self._registry)
        self.windows = Counter("esc_jax_windows", "Classified windows", registry=self._registry)
        self.waiting = Gauge(
            "esc_jax_waiting", "Uploads that are received, wait, or are computed", registry=self._registry
        )
        self.compute = Histogram(
            "esc_jax_compute_seconds", "Decoding and classification of a sound", buckets=_BUCKETS_S,
            registry=self._registry,
        )  # fmt: skip
        self.wait = Histogram(
            "esc_jax_wait_seconds", "Time of an upload in the queue", buckets=_BUCKETS_S, registry=self._registry
        )

    def text(self) -> bytes:
        """The metrics."""
        return prometheus_client.generate_latest(self._registry)
