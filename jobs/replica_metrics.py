"""Pass a replica's metrics on to Ray, whose agents show those of all replicas to Prometheus.

A request to `/metrics` would reach any one replica. Ray's agent on each machine knows them all, and
adds the replica's name to each number.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

from iak.pipeline.repeated import Repeated

EVERY_S = 5.0
"""Seconds between two readings."""


class ReplicaMetrics:
    """Reads a registry every few seconds, and sets a gauge of Ray for each of its samples."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begin without gauges: a sample gets its own when it is seen first."""
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}
        self._readings = Repeated("metrics", self.read)

    def start(self) -> None:
        """Read every few seconds, in a thread."""
        self._readings.start(EVERY_S)

    def stop(self) -> None:
        """End the thread."""
        self._readings.stop()

    def read(self) -> None:
        """Set every gauge to what its sample says now."""
        for metric in self._registry.collect():
            for sample in metric.samples:
                if not sample.name.endswith("_created"):  # when a counter began, not a number of it
                    self._gauge(sample.name, metric.documentation, sample.labels).set(
                        sample.value, tags=dict(sample.labels)
                    )

    def _gauge(self, name: str, help_text: str, labels: Mapping[str, str]) -> Gauge:
        if name not in self._gauges:
            keys: Any = tuple(labels)  # Ray's annotation says one key alone (2.60)
            self._gauges[name] = Gauge(name, description=help_text, tag_keys=keys)
        return self._gauges[name]
