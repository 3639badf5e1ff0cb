"""Define the columns of benchmark records that pages and pictures show.

A record may be of an older version. A column that some records lack has a default.
"""

import math

from pydantic import ConfigDict, Field

from iak.schemas.base import View

# ------------------------------------------------------------ finetune


class VariantLine(View):
    """`finetune`: a step of one variant of training."""

    variant: str
    what: str
    """The variant in words."""
    rows_per_s: int
    times_a: float
    """Speed over that of variant a."""
    times_a_with_cache_pass: float | None
    slowest_over_fastest_slice: float
    tables_mib: float
    optimiser_mib: float
    sent_kib_a_step: float
    times_the_floor: float
    kernels_mib: float = 0.0
    cache_mib: float = 0.0
    activations_mib: float = 0.0

    @property
    def memory(self) -> dict[str, float]:
        """Return the peak memory of a worker in MiB, by kind."""
        return {
            "tables": self.tables_mib,
            "optimiser": self.optimiser_mib,
            "kernels": self.kernels_mib,
            "cache": self.cache_mib,
            "activations": self.activations_mib,
        }


class DurationLine(View):
    """`finetune`: a night of kernels, or a run that trains the base itself."""

    what: str
    seconds: float
    of_continued: float | None
    """Seconds over those of continued training; None where that improved nothing."""
    gain_nats_a_row: float
    losses: tuple[tuple[int, float], ...] = ()
    """Step and validation loss of a run that trains the base; empty for a night."""
    seconds_of: dict[str, float] = Field(default_factory=dict)
    """Phase of a night -> its seconds."""


class BankLine(View):
    """`finetune`: a bank of a number of domains, and as many separate fine-tunes."""

    domains: int
    bank_epoch_s: float
    bank_of_1_same_rows_epoch_s: float
    separate_epoch_s: float
    bank_whole_s: float
    separate_whole_s: float
    epochs_of_mean_row: float

    @property
    def bank_without_epochs_s(self) -> float:
        """Return the bank's seconds that are not spent in its epochs."""
        return self.bank_whole_s - self.epochs_of_mean_row * self.bank_epoch_s


# ------------------------------------------------------------ tables, data


class SizeLine(View):
    """`tables`: a table of one size. Other columns are rates of lookups."""

    model_config = ConfigDict(extra="allow")

    rows: int
    step_p50_ms: float
    step_p90_ms: float
    ratio: float
    """Its median step over the smallest table's."""
    uniform_through_all_workers_per_s: float
    zipf_through_all_workers_per_s: float
    lookup_p50_ms: float

    @property
    def rates(self) -> dict[str, float]:
        """Return lookups per second, by how they are made."""
        return {
            name.removesuffix("_per_s").replace("_", " "): float(value)
            for name, value in self.model_dump().items()
            if name.endswith("_per_s")
        }


class StageLine(View):
    """`data`: a stage between Parquet and batches."""

    encoding: str
    stage: str
    rows_per_s: int
    of_raw_decode: float
    """Rows per second over those of decoding alone."""


# ------------------------------------------------------------ serve


class FilesLine(View):
    """`serve`: speed from Parquet to Parquet."""

    what: str
    rows_per_s: int
    of_base: float


class RequestLine(View):
    """`serve`: time of a request."""

    server: str
    rows: int
    p50_ms: float
    p99_ms: float


class RequestDomainsLine(RequestLine):
    """`serve`: time of a request, by the number of distinct domains in it."""

    domains: int
    times_base: float


class RequestSizeLine(RequestLine):
    """`serve`: time of a request, by its rows."""

    rows_per_s: int


class PromotionsLine(View):
    """`serve`: kernels promoted while clients ask."""

    promotions: int
    seconds: float
    slowest_s: float
    requests: int
    failed: int


class AdaptersLine(View):
    """`serve`: one way to put a batch of rows through adapters."""

    what: str
    adapters: int
    rows: int
    ms: float
    times_base: float


# ------------------------------------------------------------ gate, nights

_LOSES = "promoted_if_a_night_loses_"


class ErrorLine(View):
    """`gate`: domains without a gain that a gate promoted."""

    world: str
    gate: str
    promoted: int
    domains: int
    share: float
    share_at_most: float


class PowerLine(View):
    """`gate`: the smallest gain that a gate finds."""

    rows_a_night: int
    gate: str
    nights: int
    smallest_gain: float


class FloorLine(View):
    """`gate`: a bound of a night. Other columns are shares of domains, by the loss of a night."""

    model_config = ConfigDict(extra="allow")

    floor: float
    rows_a_night: int
    smallest_gain_of_30_nights: float

    @property
    def promoted(self) -> dict[float, float]:
        """Return the share of domains that are promoted, by the loss of one night in 20."""
        others = self.model_extra or {}
        return {
            float(name.removeprefix(_LOSES)): float(share)
            for name, share in others.items()
            if name.startswith(_LOSES)
        }


class NightLine(View):
    """`nights`: a method on the day after a night, against the base."""

    night: int
    method: str
    task: str
    delta_auc: float
    low: float
    high: float


# ------------------------------------------------------------ quality


class DifferenceLine(View):
    """`quality`, `trunks`: a method or model on one log and task, against its base or a rival."""

    log: str
    method: str
    is_first: bool
    """Whether the task is the first of the log."""
    seeds: int
    delta_auc: float | None
    low: float | None
    high: float | None
    lowest_seed: float | None
    highest_seed: float | None


class AucLine(DifferenceLine):
    """`quality`, `trunks`: a method or model beside the base."""

    task: str
    auc: float | None


class LeagueLine(AucLine):
    """`quality`: a method beside the base."""

    what: str
    """The method in words."""
    delta_gauc: float | None
    delta_log_loss: float | None
    calibration: float | None
    harmed: int
    domains: int
    parameters: int
    copies: int
    of_continued: float | None
    at_cap: int
    by_day: bool = False
    """Whether the method reads counts of earlier days alone."""


class PairLine(DifferenceLine):
    """`quality`: a form of IAK minus a rival."""

    rival: str
    what: str
    """The rival in words."""
    verdict: str
    by_day: bool = False


# ------------------------------------------------------------ terms


class TermLine(View):
    """`terms`: kernels under a condition, with or without a term, against the shipped ones."""

    condition: str
    variant: str
    share: float
    minus_shipped: float
    low: float | None = None
    high: float | None = None
    shown: str = ""
    delta_auc: float
    calibration: float
    harmed: int
    domains: int


# ------------------------------------------------------------ trunks


class TrunkLine(AucLine):
    """`trunks`: a trunk with a reader of histories, alone and with kernels."""

    base_auc: float | None
    base_beside_first: float | None
    base_beside_first_low: float | None
    base_beside_first_high: float | None
    tuned_beside_first: float | None
    tuned_beside_first_low: float | None
    tuned_beside_first_high: float | None
    parameters: int
    base_cpu_s: float
    cpu_s: float
    at_cap: int


# ------------------------------------------------------------ sharding, scaling


class LayoutLine(View):
    """`sharding`: one layout of a table under one launcher, or its error.

    Lines of the other table have no layout.
    """

    table: str = ""
    way: str = ""
    """The layout in words; empty in a line of another table."""
    launcher: str = ""
    p50_ms: float = math.nan
    """NaN, as the next four numbers, where nothing was measured."""
    p90_ms: float = math.nan
    lookups_per_s: float = math.nan
    wire_kib: float = math.nan
    held_mib: float = math.nan
    planner_ms: float | None = None
    here_ms: float | None = None
    """Estimate of the planner with constants that were measured here."""
    error: str = ""


class LauncherLine(View):
    """`sharding`: the seconds of one launcher."""

    launcher: str
    whole_s: float
    measuring_s: float
    start_and_end_s: float


class WorkloadLine(View):
    """`scaling`: a workload on some workers. The rows of a step are fixed as `scaling` says."""

    workload: str
    scaling: str
    workers: int


class MeasuredLine(WorkloadLine):
    """`scaling`: a workload, measured."""

    step_ms: float
    rows_per_s: int
    efficiency: float


class SharesLine(WorkloadLine):
    """`scaling`: what a measured step consists of. Other columns are shares of collectives."""

    model_config = ConfigDict(extra="allow")

    table: str = ""
    kind: str = ""
    input: float
    compute: float
    waiting: float

    @property
    def collectives(self) -> float:
        """Return the share of all collectives."""
        return sum(float(share) for share in (self.model_extra or {}).values())


class SimulatedLine(WorkloadLine):
    """`scaling`: a workload, simulated."""

    link_gb_per_s: float
    efficiency: float


# ------------------------------------------------------------ faults


class FaultLine(View):
    """`faults`: what came of all faults of one class, or of all bad inputs of one kind."""

    table: str
    fault: str
    where: str
    injected: int
    survived: int
    refused_by_name: int
    wrong: int
    lost: int
    rows_lost: int | None = None
    """None where nobody counted them, as in the fields below."""
    rows_repeated: int | None = None
    seconds_to_recover: float | None = None
    times_undamaged: float | None = None
