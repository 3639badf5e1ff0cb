"""Define the settings of `iak serve`."""

from typing import Annotated

from pydantic import Field

from iak.schemas.base import Spec, Value
from iak.schemas.job import EvaluatedTablesSpec
from iak.schemas.numbers import BatchRows, Count, Number, Seconds, Whole
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


class ServeSpec(Spec):
    """Answer requests for predictions over HTTP, by one process of this machine."""

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
    limits: LimitsSpec = LimitsSpec()
    labels: ServedLabelsSpec = ServedLabelsSpec()
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()
