"""Metrics of a replica become gauges of Ray, with the same names, labels and values."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from iak.jobs import replica_metrics
from iak.jobs.replica_metrics import ReplicaMetrics


@pytest.fixture
def told(monkeypatch):
    """What the gauges were set to, by name and labels; a gauge is made once for each name."""
    values, made = {}, []

    class Gauge:
        def __init__(self, name, description, tag_keys):
            made.append(name)
            self.name, self.tag_keys, self.description = name, tag_keys, description

        def set(self, value, tags):
            assert tuple(tags) == self.tag_keys
            values[self.name, tuple(tags.values())] = value

    monkeypatch.setattr(replica_metrics, "Gauge", Gauge)
    return values, made


def test_each_sample_is_a_gauge_of_its_name(told):
    values, made = told
    registry = CollectorRegistry()
    rows = Counter("iak_serve_rows", "Rows", ("reason",), registry=registry)
    seconds = Histogram("iak_serve_seconds", "Time", ("status",), registry=registry, buckets=(1,))
    metrics = ReplicaMetrics(registry)
    rows.labels("own kernel").inc(5)
    rows.labels("no kernel").inc(2)
    seconds.labels("200").observe(0.5)
    metrics.read()
    rows.labels("own kernel").inc(1)
    metrics.read()
    assert values == {
        ("iak_serve_rows_total", ("own kernel",)): 6.0,
        ("iak_serve_rows_total", ("no kernel",)): 2.0,
        ("iak_serve_seconds_bucket", ("200", "1.0")): 1.0,
        ("iak_serve_seconds_bucket", ("200", "+Inf")): 1.0,
        ("iak_serve_seconds_count", ("200",)): 1.0,
        ("iak_serve_seconds_sum", ("200",)): 0.5,
    }
    assert len(made) == len(set(made))
