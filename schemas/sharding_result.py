"""Define the result of `iak bench sharding`: what workers measure, and the lines of the record."""

from typing import Literal

from pydantic import NonNegativeInt

from iak.schemas.base import JsonObject, SparseSpec, Spec
from iak.schemas.job import Precision
from iak.schemas.plan import ShardingType
from iak.schemas.record import BenchmarkLine

Mode = Literal["trained", "frozen"]


class LayoutResult(Spec):
    """Measurements of one layout of a table on one worker."""

    kind: ShardingType
    mode: Mode
    precision: Precision
    error: str = ""
    """Why the layout could not be measured; empty where it was."""
    held_bytes: NonNegativeInt = 0
    """Bytes of this worker's part, its optimiser's state included."""
    sent_bytes: float = 0.0
    """Bytes out of this worker in a step."""
    received_bytes: float = 0.0
    collectives: dict[str, NonNegativeInt] = {}
    """Name of a collective -> how often a step calls it."""
    step_s: tuple[tuple[float, ...], ...] = ()
    """Seconds of steps, by slice."""


class HostResult(Spec):
    """One machine of the benchmark."""

    name: str
    device: str
    """Type of the device that workers compute on: `cpu` or `cuda`."""
    accelerator: str
    """Name of the GPU; without one, of the processor."""
    device_bytes: NonNegativeInt | None
    """Memory of a GPU; null without one."""
    bytes: NonNegativeInt
    """Memory of the machine."""
    bytes_are_assumed: bool
    """Whether the system does not say how much memory there is."""
    cores: NonNegativeInt
    workers: NonNegativeInt = 0
    """Workers on it."""


class MachineRates(Spec):
    """Rates of a worker while all workers work: the slowest worker's rate, the longest time."""

    copy_bytes_per_s: float
    """Bytes read and written by a copy."""
    matmul_fp32_flops_per_s: float
    """FLOP/s of a large product in fp32."""
    matmul_bf16_flops_per_s: float
    """The same in bf16."""
    trunk_flops_per_s: float
    """FLOP/s of a product as a trunk has it, in fp32."""
    collective_s: float
    """Seconds of a collective that carries next to nothing."""
    link_bytes_per_s: float | None = None
    """Bytes out of one worker to all others, in an all-to-all; null with one worker."""
    lookup_bytes_per_s: float | None = None
    """Bytes of rows at random places that are read, or read and written again; null where no
    trained table cut by rows ran."""
    step_s: float | None = None
    """Seconds of a trained step without rows to speak of, its collectives left out; null where no
    trained table cut by rows ran."""

    def as_limits(self) -> dict[str, float]:
        """Return the rates that were measured, under the keys of a benchmark's record."""
        return self.model_dump(exclude_none=True)


class ShardingResult(Spec):
    """Everything that the workers of one launcher measured, the same on every worker."""

    workers: tuple[tuple[tuple[LayoutResult, ...], ...], ...]
    """Measurements by rank, then by table, then by layout."""
    rates: MachineRates
    hosts: tuple[HostResult, ...]
    seconds: float
    """Time of everything but the start of workers."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values."""
        return self.model_dump(mode="json")


class LayoutLine(SparseSpec, BenchmarkLine):
    """One layout of a table under one launcher: a line of the record.

    A line with an error has no numbers. Columns that were not set are left out.
    """

    table: str
    way: str
    """The layout in three words: `row trained fp32`."""
    launcher: str
    sharding: ShardingType
    held: Mode
    precision: Precision
    p50_ms: float | None = None
    """Median of the steps, each as long as its slowest worker's."""
    p90_ms: float | None = None
    lookups_per_s: int | None = None
    """Ids looked up by all workers."""
    wire_kib: float | None = None
    """KiB that leave all workers in a step."""
    held_mib: float | None = None
    """MiB of the worker that holds most, optimiser included."""
    slice_p50_ms: tuple[float, ...] = ()
    held_bytes_per_worker: tuple[int, ...] = ()
    sent_bytes_per_worker: tuple[int, ...] = ()
    received_bytes_per_worker: tuple[int, ...] = ()
    collectives: tuple[str, ...] = ()
    """Name of a collective, and how often a step calls it."""
    planner_ms: float | None = None
    """TorchRec's estimate with its own constants; null where it cannot count."""
    times_planner: float | None = None
    """Measured step over that estimate."""
    here_ms: float | None = None
    """The same with this machine's measured constants."""
    times_here: float | None = None
    planner_mib: float | None = None
    times_planner_mib: float | None = None
    error: str = ""
    """Type of the error; empty where there is none."""
    whole_error: tuple[str, ...] = ()
    """The error in full, as the only element."""

    @property
    def key(self) -> tuple[str, ...]:
        """Return the key of the line, by which it is found in another record."""
        return self.table, self.launcher, self.sharding, self.held, self.precision


class LauncherLine(BenchmarkLine):
    """The seconds of one launcher: a line of the record."""

    table: Literal["launchers"] = "launchers"
    launcher: str
    whole_s: float
    measuring_s: float
    start_and_end_s: float
    """Seconds of starting and ending workers."""
