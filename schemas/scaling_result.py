"""Define the lines of the record of `iak bench scaling`."""

from typing import Literal

from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from iak.schemas.record import BenchmarkLine

Scaling = Literal["strong", "weak"]
"""The same rows a step over all workers, or as many on each."""


class _CaseLine(BenchmarkLine):
    """A line about a workload on some workers. A subclass names its table and kind."""

    table: str
    kind: Literal["measured", "simulated"]
    workload: str
    scaling: Scaling
    workers: PositiveInt


class MeasuredLine(_CaseLine):
    """A workload on some workers of this machine."""

    table: Literal["measured"] = "measured"
    kind: Literal["measured"] = "measured"
    rows_a_worker: float
    """Mean rows of each worker in a step."""
    step_ms: float
    rows_per_s: int
    """Over all workers."""
    efficiency: float
    """Rows per second over those of as many lone workers."""
    slowest_over_fastest_slice: float
    sent_kib_a_step: float
    """Out of a worker."""
    sent_kib_by_collective: dict[str, float]
    collectives_a_step: dict[str, float]
    """Name of a collective -> calls in a step."""
    profiled_step_ms: float
    """The step while it was profiled."""


class SharesLine(_CaseLine):
    """The parts of a measured step. Each part is a further column, as a share of the step."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    table: Literal["shares of a measured step"] = "shares of a measured step"
    kind: Literal["measured"] = "measured"

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of each part."""
        return dict(self.__pydantic_extra__)


class BytesLine(BenchmarkLine):
    """The bytes of a collective that were counted, and those that the simulation assumes."""

    table: Literal["bytes a worker sends in a step"] = "bytes a worker sends in a step"
    kind: Literal["measured"] = "measured"
    workload: str
    workers: PositiveInt
    rows_a_worker: float
    collective: str
    counted_kib: float
    simulated_kib: float


class ErrorLine(_CaseLine):
    """The simulation of a case that was measured, over this machine's own loopback."""

    table: Literal["model's error"] = "model's error"
    kind: Literal["simulated"] = "simulated"
    simulated_ms: float
    measured_ms: float
    error: float
    """Simulated over measured step, minus 1."""
    simulated_compute_ms: float
    measured_compute_ms: float
    simulated_collectives_ms: float
    measured_collectives_ms: float
    measured_waiting_ms: float


class SimulatedLine(BenchmarkLine):
    """A workload on more workers than were measured, each with a machine and a link of its own."""

    table: Literal["simulated"] = "simulated"
    kind: Literal["simulated"] = "simulated"
    workload: str
    scaling: Scaling
    link_gb_per_s: float
    workers: PositiveInt
    rows_a_worker: NonNegativeInt
    step_ms: float
    rows_per_s: int
    efficiency: float
    input: float
    """Share of the step that waits for rows."""
    compute: float
    """Share of the step that computes."""
    collectives: float
    """Share of the step that collectives take."""
    shares: dict[str, float]
    """Each part's share of the step."""
    sent_kib_a_step: float
    link_beats_loopback: bool
    """Whether the link moves a byte faster than this machine's loopback."""
