"""Define the settings of `iak serve`."""

from typing import Annotated

from pydantic import Field, model_validator

from iak.schemas.base import Spec, Value
from iak.schemas.job import EvaluatedTablesSpec
from iak.schemas.numbers import BatchRows, Count, Number, Seconds, Whole, Workers
from iak.schemas.paths import BaseToRead, BundlesToRead, NamedPath, PlaceToRead


class LimitsSpec(Spec):
    """What one request may ask for."""

    body_mib: Annotated[Number, Field(gt=0, le=1024)] = 16.0
    """MiB of a request's body; a larger one gets 413."""
    rows: BatchRows = 10_000
    """Rows of a request; more get 413."""
    seconds: Annotated[Seconds, Field(gt=0)] = 10.0
    """Time until a request that waits gets 503."""


class ServedLabelsSpec(Spec):
    """Labels with which served predictions are compared as they arrive."""

    data: PlaceToRead | None = None
    """Folder or `s3://bucket/prefix` below which the log with the labels lies, as `data_root=` of
    other verbs. Nothing is compared when absent."""
    days: Count = 7
    """Newest days of the log that are read, where it has a date key: at least the time until a
    label is ripe."""
    every_s: Annotated[Seconds, Field(gt=0)] = 60.0
    """Seconds between looks at the log."""
    rows: BatchRows = 100_000
    """Most predictions that wait for their labels, in memory; the oldest give way."""
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share of the rows whose predictions are kept; a row's id decides."""


class ReplicasSpec(Spec):
    """Replicas of Ray Serve, on the cluster that RAY_ADDRESS names, else on this machine."""

    least: Annotated[Workers, Field(le=1_000)] | None = None
    """Replicas that always run. When absent, one process of this machine answers, without Ray."""
    most: Annotated[Workers, Field(le=1_000)] | None = None
    """Replicas at most: Ray Serve adds one where requests wait, and takes it away later. As many as
    `least` when absent."""
    requests: Annotated[Number, Field(ge=1, le=1_000)] = 8.0
    """Requests at a time that a replica should have; with more of them, one is added."""
    cpus: Annotated[Number, Field(gt=0, le=1_000)] = 1.0
    """Cores that Ray sets aside for a replica, whose predictions use one."""

    @model_validator(mode="after")
    def _most_is_not_less(self) -> "ReplicasSpec":
        if self.most is not None and (self.least is None or self.most < self.least):
            raise ValueError(
                f"replicas.most={self.most} with replicas.least={self.least}: give a `least` that "
                "is not above it"
            )
        return self


class ServeSpec(Spec):
    """Answer requests for predictions over HTTP, by one process or by replicas of Ray Serve."""

    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one."""
    base: BaseToRead
    """Run or folder of the published base, or `registry:PLACE@champion`: the one it runs on."""
    bundles: BundlesToRead | None = None
    """Folder of bundles, or `registry:PLACE@champion`, whose promotions are then followed; the base
    alone predicts when absent."""
    host: Annotated[Value, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. Beyond loopback, a token in IAK_SERVE_TOKEN is required."""
    port: Annotated[Whole, Field(ge=1, le=65_535)] = 8080
    """Port to listen on."""
    batch_rows: BatchRows = 1024
    """Rows of several requests that are predicted together at most."""
    wait_ms: Annotated[Number, Field(ge=0, le=10_000)] = 2.0
    """Milliseconds that a request waits for others to be predicted with."""
    follow_s: Annotated[Seconds, Field(gt=0)] = 1.0
    """Seconds between looks at the registry."""
    replicas: ReplicasSpec = ReplicasSpec()
    limits: LimitsSpec = LimitsSpec()
    labels: ServedLabelsSpec = ServedLabelsSpec()
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()

    @model_validator(mode="after")
    def _labels_are_read_by_one_process(self) -> "ServeSpec":
        if self.replicas.least is not None and self.labels.data is not None:
            raise ValueError(
                "labels.data with replicas.least: a label would have to find the replica that "
                "served its row. Leave out one of them"
            )
        return self
