"""Settings of `iak bench NAME`: sizes, and how often each variant is measured."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
)

from iak.schemas.base import Spec
from iak.schemas.job import (
    BaseOptimSpec,
    DomainStageSpec,
    KernelSpec,
    ModelSpec,
    StageSpec,
)
from iak.schemas.numbers import (
    BatchRows,
    Count,
    CountOrZero,
    Number,
    Seconds,
    Seed,
    Speed,
    TableRows,
    Units,
    Whole,
    Width,
    Workers,
)
from iak.schemas.paths import FileToRead, FolderToRead, FolderToWrite, NamedPath


class BenchSpec(Spec):
    """Settings that every benchmark has."""

    smoke: bool = False
    """Use the shipped small sizes, to check that it runs; its numbers then mean nothing."""
    out: FolderToWrite = Path("runs/bench")
    """Folder of NAME.json (the record) and NAME.png (the picture)."""
    check_targets: bool = False
    """Exit with 1 when a target is missed; it is recorded in any case."""
    repeats: Count = 5
    """Times each variant is measured, interleaved with the others; medians are reported."""
    seed: Seed = 0
    """Seed of everything random."""


class BenchSetupSpec(BenchSpec):
    """The wide log, the base trained on its older days, and the kernels that are tuned on it."""

    cache: FolderToWrite = Path("runs/bench/cache")
    """Folder of the log and the base, which later runs of the same sizes find again."""
    rows: Annotated[Whole, Field(gt=0, le=10_000_000_000)] = 2_000_000
    """Rows of the log."""
    days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Days of the log; the last eight but one are tuned on, what lies before them is the base's."""
    table_rows: TableRows = 20_000_000
    """Rows of all embedding tables together."""
    domains: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 10, 100, 1000)
    """Numbers of domains, rising; the last is that of every variant but the sweep."""
    workers: Workers = 2
    """gloo workers, one thread each."""
    batch_rows: BatchRows = 8192
    """Rows a step over all workers, the same for every variant."""
    slice_steps: Count = 10
    """Steps of one measured slice."""
    model: ModelSpec = ModelSpec(
        trunk="mlp", width=64, mlp=(1024, 512, 256), expert_width=128, tower_width=32
    )
    """The base."""
    optim: BaseOptimSpec = BaseOptimSpec()
    """How the base is trained, and continued."""
    continued_epochs: Count = 2
    """Passes over the tuning window that full fine-tune and continued training may take; they stop
    when two validations were no better than the best."""
    continued_validations: Count = 4
    """Validations in each of them."""
    kernel: KernelSpec = KernelSpec()
    """The kernels."""
    pooled: StageSpec = StageSpec()
    """How the pooled kernel is tuned."""
    domain: DomainStageSpec = DomainStageSpec()
    """How the domains' kernels are tuned."""


class BenchScalingSpec(BenchSpec):
    """What 1, 2, ... workers make of the same work, and of as much each; what more would."""

    cache: FolderToWrite = Path("runs/bench/cache")
    """Folder of the log and the base, which later runs of the same sizes find again."""
    workers: Annotated[tuple[Workers, ...], Field(min_length=2)] = (1, 2)
    """Numbers of gloo workers that are measured, one thread each, from 1 rising to a core each."""
    counted: tuple[Workers, ...] = (4,)
    """Further numbers of workers whose bytes are counted: as processes that share the cores, so
    that their time says nothing."""
    simulated: tuple[Workers, ...] = (4, 8, 16, 64)
    """Numbers of workers that are simulated, each on a machine of its own."""
    link_gb_per_s: Annotated[tuple[Speed, ...], Field(min_length=1)] = (1.25, 12.5)
    """Bandwidths of the simulated links, 1e9 bytes/s out of a worker; 1.25 is 10 Gbit/s."""
    latency_us: Seconds = 20.0
    """Microseconds a message takes on a simulated link, beside what software costs a round."""
    rows: Annotated[Whole, Field(gt=0, le=10_000_000_000)] = 400_000
    """Rows of the log."""
    days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Days of the log; the last eight but one are what is read here."""
    table_rows: TableRows = 4_000_000
    """Rows of all embedding tables together."""
    batch_rows: BatchRows = 4096
    """Rows a step: of all workers together where the work is the same (strong), of each of them
    where it grows with the workers (weak)."""
    slice_steps: Count = 6
    """Steps of one measured slice, warm-up excluded; tuning takes a pass of about as many rows."""
    model: ModelSpec = ModelSpec(
        trunk="mlp", width=64, mlp=(1024, 512, 256), expert_width=128, tower_width=32
    )
    """The base."""
    kernel: KernelSpec = KernelSpec()
    """The kernel that is tuned."""

    @field_validator("workers")
    @classmethod
    def _from_one_rising(cls, workers: tuple[int, ...]) -> tuple[int, ...]:
        if workers[0] != 1 or list(workers) != sorted(set(workers)):
            raise ValueError("must begin with 1 and rise: efficiency is relative to one worker")
        return workers


TableSize = Annotated[str, Field(pattern=r"^[1-9][0-9_]*x[1-9][0-9]*$")]


class BenchShardingSpec(BenchSpec):
    """What each way of cutting and holding a table costs a step, against what a planner expects."""

    tables: Annotated[tuple[TableSize, ...], Field(min_length=1)] = ("100_000x16", "1_000_000x64")
    """Tables as ROWSxWIDTH; not read where `catalog` or `base` names others."""
    catalog: NamedPath | None = None
    """Measure this catalogue's tables: a TOML file, or the name of a shipped one."""
    base: FolderToRead | None = None
    """Run or folder of a published base: the rows its vocabularies came to, and its catalogue
    where none is named."""
    width: Width = 16
    """Width of a catalogue's tables that state none."""
    workers: Workers = 2
    """Workers: gloo processes of one thread, or GPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; `auto` takes GPUs under Ray and torchrun where there are enough."""
    as_ray: bool = False
    """Start the workers with Ray Train: on the cluster that RAY_ADDRESS names, or a local one."""
    as_torchrun: bool = False
    """Start them with torchrun, on this machine; with `as_ray`, measure under both."""
    batch_rows: BatchRows = 8192
    """Rows of a step, over all workers."""
    ids_per_row: Units = 8
    """Ids a row looks up in a given table, every other one uniform, the others Zipf's; a
    catalogue's tables are asked for what their features read."""
    slice_steps: Count = 10
    """Steps of one measured slice."""
    warmup_steps: CountOrZero = 3
    """Steps ahead of each slice that are not counted."""
    link_mib: Annotated[Number, Field(gt=0, le=1_000_000)] = 8.0
    """MiB that each worker sends to all others where links are measured."""
    check_baseline: FileToRead | None = None
    """Record of an earlier run; exit with 1 when a combination is slower, moves more bytes, holds
    more or fails where it did not."""
    threshold: Annotated[Number, Field(gt=1, le=1_000)] = 1.25
    """Times the baseline's number beyond which a combination is a regression."""
