"""Define the lines of the record of `finetune`."""

from typing import Literal

from iak.schemas.record import BenchmarkLine


class VariantLine(BenchmarkLine):
    """A step of one variant of training."""

    table: Literal["variants"] = "variants"
    variant: str
    what: str
    """The variant in words."""
    rows_per_s: int
    times_a: float
    """Rows per second over those of the full fine-tune, (a)."""
    times_a_with_cache_pass: float | None
    """The same over a first night, whose first pass fills the cache; null without such a pass."""
    slowest_over_fastest_slice: float
    auc_cost: float | None
    """What the precision of its tables costs in AUC; null where they are in fp32."""
    seconds_to_best: float
    seconds_to_best_is: str
    """How that number was found."""
    tables_mib: float
    optimiser_mib: float
    kernels_mib: float
    cache_mib: float
    activations_mib: float
    """The most that a step allocated beyond what stood before it."""
    sent_kib_a_step: float
    received_kib_a_step: float
    collectives_a_step: dict[str, int]
    """Name of a collective -> calls in a step."""
    times_the_floor: float
    """The step's time over its lower bound."""
    floor_is: Literal["flops", "bytes"]
    """What sets the lower bound."""
    top: tuple[str, ...]
    """The operators that take most of the time, with their shares."""


class DurationLine(BenchmarkLine):
    """The seconds of a night or of a training run."""

    table: Literal["nights"] = "nights"
    what: str
    seconds: float
    of_continued: float | None
    """Seconds over those of continued training; null where that never improved on its start."""
    gain_nats_a_row: float


class NightLine(DurationLine):
    """A night of kernels on the frozen base."""

    pooled_gain_nats_a_row: float
    rows_from_cache: int
    rows_through_base: int
    epochs: tuple[int, ...]
    """By level."""
    kernels_stopped_at_cap: int
    kernels_at_once: int
    """Most kernels that had moments at the same time."""
    moments_mib: float
    """Of these moments, on every worker."""
    seconds_of: dict[str, float]
    """Phase of the night -> its seconds."""


class TrainingLine(DurationLine):
    """A run that trains the base itself."""

    losses: tuple[tuple[int, float], ...]
    """Step and validation loss, from before the first step on."""
    cut_short: bool
    """Whether it was still improving when its passes ended."""


class DomainsLine(BenchmarkLine):
    """A bank of a number of domains, and as many separate fine-tunes."""

    table: Literal["domains"] = "domains"
    domains: int
    rows: int
    bank_steps: int
    bank_epoch_s: float
    bank_of_1_same_rows_epoch_s: float
    separate_epoch_s: float
    times_separate_an_epoch: float
    bank_whole_s: float
    separate_whole_s: float
    times_separate_whole: float
    separate_batch_rows: int
    epochs_of_slowest: int
    epochs_of_mean_row: float
    separate_domains_measured: int


class RayLine(BenchmarkLine):
    """The loop of tuning steps under one launcher."""

    table: Literal["ray"] = "ray"
    what: str
    """The launcher."""
    passes: int
    seconds: tuple[float, ...]
    """By round."""
