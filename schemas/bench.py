"""Define the settings of `iak bench NAME`: sizes, and how often each variant is measured."""

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
from iak.schemas.paths import BaseToRead, FileToRead, FolderToWrite, NamedPath


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
    """Settings of the wide log, of the base trained on its older days, and of its kernels."""

    cache: FolderToWrite = Path("runs/bench/cache")
    """Folder of the log and the base, which later runs of the same sizes find again."""
    rows: Annotated[Whole, Field(gt=0, le=10_000_000_000)] = 2_000_000
    """Rows of the log."""
    days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Days of the log. Kernels are tuned on the seven before the last day. The base is trained on
    all but the last nine, so that a night earlier can be played too."""
    table_rows: TableRows = 20_000_000
    """Rows of all embedding tables together."""
    domains: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 10, 100, 1000)
    """Numbers of domains, rising. The sweep measures each of them, other variants the last."""
    workers: Workers = 2
    """gloo workers, one thread each."""
    batch_rows: BatchRows = 8192
    """Rows per step over all workers, the same for every variant."""
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
    """Settings of `iak bench scaling`: speed by number of workers, measured and simulated.

    Strong scaling gives all numbers of workers the same work. Weak scaling gives each worker the
    same work.
    """

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
    """Microseconds that a message takes on a simulated link, without the time of the software."""
    rows: Annotated[Whole, Field(gt=0, le=10_000_000_000)] = 400_000
    """Rows of the log."""
    days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Days of the log. Workers read the seven before the last."""
    table_rows: TableRows = 4_000_000
    """Rows of all embedding tables together."""
    batch_rows: BatchRows = 4096
    """Rows per step: of all workers together in strong scaling, of each worker in weak scaling."""
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
    """Settings of `iak bench sharding`: step time, bytes and memory of each layout of a table.

    A layout is a sharding type, a precision and a place in memory. The record compares each one
    with the estimate of TorchRec's planner.
    """

    tables: Annotated[tuple[TableSize, ...], Field(min_length=1)] = ("100_000x16", "1_000_000x64")
    """Tables as ROWSxWIDTH; not read where `catalog` or `base` names others."""
    catalog: NamedPath | None = None
    """Measure this catalogue's tables: a TOML file, or the name of a shipped one."""
    base: BaseToRead | None = None
    """Run or folder of a published base. Tables get the rows of its vocabularies, and its catalogue
    is measured where `catalog` names none."""
    width: Width = 16
    """Width of a catalogue's tables that state none."""
    workers: Workers = 2
    """Workers: gloo processes of one thread, or GPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; `auto` takes GPUs where there are enough, with several workers only
    under Ray and torchrun."""
    as_ray: bool = False
    """Start the workers with Ray Train: on the cluster that RAY_ADDRESS names, or a local one."""
    as_torchrun: bool = False
    """Start them with torchrun, on this machine; with `as_ray`, measure under both."""
    batch_rows: BatchRows = 8192
    """Rows of a step, over all workers."""
    ids_per_row: Units = 8
    """Ids that a row looks up in each of `tables`, half of them uniform and half by Zipf's law. Of
    a catalogue's tables a row looks up as many ids as its features read."""
    slice_steps: Count = 10
    """Steps of one measured slice."""
    warmup_steps: CountOrZero = 3
    """Warm-up steps before each slice, which are not measured."""
    link_mib: Annotated[Number, Field(gt=0, le=1_000_000)] = 8.0
    """MiB that each worker sends to all others where links are measured."""
    check_baseline: FileToRead | None = None
    """Record of an earlier run; exit with 1 when a combination is slower, moves more bytes, holds
    more or fails where it did not."""
    threshold: Annotated[Number, Field(gt=1, le=1_000)] = 1.25
    """Ratio to the baseline's number above which a combination counts as a regression."""
