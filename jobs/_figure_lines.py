"""Define the columns of benchmark records that pictures draw."""

from pydantic import ConfigDict

from iak.schemas.base import View


class StageLine(View):
    """`data`: a stage between Parquet and batches."""

    stage: str
    encoding: str
    rows_per_s: float


class FaultLine(View):
    """`faults`: the outcomes of a class of faults."""

    table: str
    fault: str
    survived: int
    refused_by_name: int
    wrong: int


class ErrorLine(View):
    """`gate`: domains without a gain that a gate promoted."""

    world: str
    gate: str
    share: float
    share_at_most: float
    """Upper end of the share's 95 % interval."""


class PowerLine(View):
    """`gate`: the smallest gain that a gate finds."""

    rows_a_night: int
    gate: str
    nights: int
    smallest_gain: float
    """Share of the base's loss."""


class NightLine(View):
    """`nights`: a method on the day after a night, against the base."""

    method: str
    task: str
    night: int
    delta_auc: float
    low: float
    high: float


class VariantLine(View):
    """`finetune`: a way to tune, or to train on, the same rows."""

    variant: str
    rows_per_s: float
    times_a: float
    """Speed over that of variant a."""
    tables_mib: float | None = None
    optimiser_mib: float | None = None
    kernels_mib: float | None = None
    cache_mib: float | None = None
    activations_mib: float | None = None

    @property
    def memory(self) -> dict[str, float]:
        """Return the peak memory of a worker in MiB, by kind."""
        return {
            "tables": self.tables_mib or 0.0,
            "optimiser": self.optimiser_mib or 0.0,
            "kernels": self.kernels_mib or 0.0,
            "cache": self.cache_mib or 0.0,
            "activations": self.activations_mib or 0.0,
        }


class DomainsLine(View):
    """`finetune`: seconds of an epoch, by the number of domains."""

    domains: int
    bank_epoch_s: float
    bank_of_1_same_rows_epoch_s: float
    separate_epoch_s: float


class SizeLine(View):
    """`tables`: times of a step and of its lookups. Other columns are rates of lookups."""

    model_config = ConfigDict(extra="allow")

    rows: int
    step_p50_ms: float
    lookup_p50_ms: float

    @property
    def rates(self) -> dict[str, float]:
        """Return lookups per second, by how they are made."""
        others = self.model_extra or {}
        return {
            name.removesuffix("_per_s").replace("_", " "): float(value)
            for name, value in others.items()
            if name.endswith("_per_s")
        }


class FilesLine(View):
    """`serve`: speed of `iak predict`."""

    what: str
    rows_per_s: float


class RequestLine(View):
    """`serve`: time of a request."""

    server: str
    rows: int
    domains: int = 0
    p50_ms: float
    p99_ms: float


class MeasuredLine(View):
    """`scaling`: efficiency of a workload, measured."""

    workload: str
    scaling: str
    workers: int
    efficiency: float


class SimulatedLine(MeasuredLine):
    """`scaling`: efficiency of a workload, simulated."""

    link_gb_per_s: float


class SharesLine(View):
    """`scaling`: what a measured step consists of. Other columns are shares, by kind."""

    model_config = ConfigDict(extra="allow")

    table: str = ""
    kind: str = ""
    workload: str
    scaling: str
    workers: int

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of each kind of work."""
        return {kind: float(share) for kind, share in (self.model_extra or {}).items()}


class PlacedLine(View):
    """`sharding`: time of a step under one sharding, and its estimates.

    Lines of its other tables have no time of a step.
    """

    table: str = ""
    sharding: str = ""
    launcher: str = ""
    held: str = ""
    precision: str = ""
    p50_ms: float | None = None
    """None where nothing was measured."""
    planner_ms: float | None = None
    here_ms: float | None = None
    """Estimate of the planner with constants that were measured here."""


class LeagueLine(View):
    """`quality`, `trunks`: a method or model on one log and task, against its base."""

    log: str
    method: str = ""
    task: str = ""
    is_first: bool = False
    """Whether the task is the first of the log."""
    auc: float | None = None
    delta_auc: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    lowest_seed: float | None = None
    highest_seed: float | None = None


class TermLine(View):
    """`terms`: kernels under a condition, with or without a term, against the shipped ones."""

    condition: str
    variant: str
    seeds: int
    share: float
    minus_shipped: float
    low: float | None = None
    """Lower end of the 95 % interval of `minus_shipped`; None where there is none."""
    high: float | None = None
