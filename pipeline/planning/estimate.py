"""Estimate memory of every rank, bytes sent, time and cost of a job on a cluster.

Memory is counted. Time is estimated: bytes and FLOPs, divided by the cluster's stated rates times
its constants (schemas.cluster.ConstantsSpec). Nothing is measured on the cluster.

Bytes that a rank sends in a step of B rows over W ranks, with A = (W - 1) / W:

    ids           8 * ids * B / W * A                         to the rows' owners
    table-wise    4 * width * B * A for a rank's own tables   pooled rows, and gradients back
    row-wise      4 * width * B * A on every rank             partial sums, and gradients back
    column-wise   as table-wise, a rank's own columns
    frozen        row bytes * ids * B * A for a rank's part of the tables, or summed rows where
                  those are fewer bytes; no gradients
    dense         2 * 4 * parameters * A                      all-reduce

Shapes: W ranks; all sizes are bytes unless a name says otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from iak.pipeline.planning.workload import Workload
from iak.pipeline.sharding.placement_search import GIB
from iak.pipeline.sharding.row_format import stride_bytes
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import StageSpec
from iak.schemas.plan import PhaseLine, PlanDocument, ShardDocument, TableDocument

_FP32, _ID_BYTES = 4, 8
_PREFETCHED = 4
"""Batches that are read ahead of the step."""
LOOKED_UP_ROWS = 8192
"""Rows that a worker passes through the frozen base, or validates, at a time."""
_COPIES_OF_DENSE = 5
"""Weight, gradient, DDP's bucket and Adam's two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Kernels of one level, and the settings with which they are tuned."""

    name: str
    kernels: int
    stage: StageSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Settings of the job that decide what it takes."""

    batch_rows: int
    """Rows of a step, of all workers."""
    rows: int
    """Rows of the log that are trained on, or tuned on."""
    passes: float
    """Epochs of pre-training over these rows."""
    levels: tuple[Level, ...]
    """Levels of tuning from the pooled kernel down. Each takes as many epochs as it may."""
    bf16: bool
    """Whether products are of bfloat16."""
    kept_bytes: int
    """Bytes of one activation in the cache."""
    cache_gib: float
    """GiB of a worker's activations above which they lie in a file instead of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of a step on the slowest rank, and bytes that it sends."""

    seconds: Mapping[str, float]
    """Kind of work -> seconds. `input` runs in parallel with all others."""
    sent: Mapping[str, float]
    """Kind of data -> bytes."""

    @property
    def total_s(self) -> float:
        """Return the seconds of all work except input, or of input where that takes longer."""
        rest = sum(s for name, s in self.seconds.items() if name != "input")
        return max(rest, self.seconds.get("input", 0.0))

    @property
    def bottleneck(self) -> str:
        """Return the kind of work that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A job on a cluster."""

    cluster: ClusterSpec
    document: PlanDocument
    planner_ms: float
    """Milliseconds of a step in tables, as TorchRec's planner estimates them; 0 without it."""
    memory: tuple[Mapping[str, int], ...]
    """By rank: kind of memory -> bytes."""
    host_bytes: int
    """Host memory of each machine: rows of tuning, and batches in flight."""
    phases: Mapping[str, tuple[Step, int, float]]
    """Name -> its step, the rows of one step, and the rows of all steps."""

    @property
    def usable_bytes(self) -> int:
        """Return the bytes of a device that a plan may use: all but the reserve."""
        cluster = self.cluster
        return int(cluster.device_memory_gib * GIB * (1 - cluster.constants.reserve_share))

    @property
    def fullest_rank_bytes(self) -> int:
        """Return the bytes of the fullest rank."""
        return max(sum(by_kind.values()) for by_kind in self.memory)

    @property
    def hours(self) -> float:
        """Return the hours of all phases, one after the other."""
        return sum(s.total_s * rows / per for s, per, rows in self.phases.values()) / 3600

    @property
    def cost(self) -> float:
        """Return the price of all machines for these hours, in the cluster's currency."""
        return self.hours * self.cluster.nodes * self.cluster.price_per_hour

    @property
    def rows_per_s(self) -> float:
        """Return the rows per second, over all phases."""
        rows = sum(rows for _, _, rows in self.phases.values())
        return rows / max(self.hours * 3600, 1e-12)

    def problems(
        self, *, max_hours: float | None = None, max_cost: float | None = None
    ) -> list[str]:
        """Return the reasons why the job does not fit, with numbers; none where it fits.

        Args:
            max_hours: hours that it may take; None for any.
            max_cost: its price at most, in the cluster's currency; None for any.
        """
        reasons, cluster = [], self.cluster
        if self.fullest_rank_bytes > self.usable_bytes:
            rank = max(range(len(self.memory)), key=lambda r: sum(self.memory[r].values()))
            largest = max(self.memory[rank], key=lambda kind: self.memory[rank][kind])
            reasons.append(
                f"rank {rank} needs {self.fullest_rank_bytes / GIB:.1f} GiB, most of it {largest}; "
                f"{self.usable_bytes / GIB:.1f} of {cluster.device_memory_gib:g} GiB may be planned"
            )
        if self.host_bytes > cluster.host_memory_gib * GIB:
            reasons.append(
                f"a machine needs {self.host_bytes / GIB:.1f} GiB of host memory; "
                f"it has {cluster.host_memory_gib:g}"
            )
        if max_hours is not None and self.hours > max_hours:
            reasons.append(f"it takes about {self.hours:.2f} hours; max_hours is {max_hours:g}")
        if max_cost is not None and self.cost > max_cost:
            reasons.append(
                f"it costs about {self.cost:,.2f} {cluster.currency}; max_cost is {max_cost:g}"
            )
        return reasons


def shard_bytes(
    table: TableDocument, shard: ShardDocument, cluster: ClusterSpec, *, is_trained: bool
) -> int:
    """Return the bytes of a shard's weights: fp32 where trained, else as frozen rows are stored."""
    return shard.rows * _row_bytes(table, shard.cols, cluster, is_trained=is_trained)


def _row_bytes(table: TableDocument, cols: int, cluster: ClusterSpec, *, is_trained: bool) -> int:
    """Return the bytes of a row of `cols` columns, with its alignment on CUDA."""
    device = torch.device(cluster.device)
    return _FP32 * cols if is_trained else stride_bytes(table.precision, cols, device)


def reserved(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, *, is_trained: bool
) -> int:
    """Return the bytes of each device that TorchRec's planner must leave free."""
    besides = _bytes_besides_tables(work, settings, cluster, is_trained=is_trained)
    # The planner counts batches and exchanges itself.
    besides = {kind: size for kind, size in besides.items() if kind not in ("input", "exchange")}
    share = cluster.device_memory_gib * GIB * cluster.constants.reserve_share
    return int(sum(besides.values()) + share)


def estimate(
    work: Workload,
    settings: JobSettings,
    cluster: ClusterSpec,
    document: PlanDocument,
    planner_ms: float,
) -> Estimate:
    """Estimate a job on one cluster, under one plan.

    Args:
        work: sizes of the job's tables, trunk and kernels.
        settings: settings of the job.
        cluster: the machines.
        document: the plan.
        planner_ms: estimate of TorchRec's planner, which is passed on; 0 without one.
    """
    is_trained = document.job == "pretrain"
    besides = _bytes_besides_tables(work, settings, cluster, is_trained=is_trained)
    memory = []
    for rank in range(cluster.world):
        shards = [(t, s) for t in document.tables for s in t.shards if s.rank == rank]
        tables = sum(shard_bytes(t, s, cluster, is_trained=is_trained) for t, s in shards)
        accumulators = sum(_FP32 * shard.rows for _, shard in shards) if is_trained else 0
        memory.append({"tables": tables, "table optimiser": accumulators, **besides})
    return Estimate(
        cluster=cluster,
        document=document,
        planner_ms=planner_ms,
        memory=tuple(memory),
        host_bytes=_host_bytes(work, settings, cluster, is_trained=is_trained),
        phases=_phases(work, settings, cluster, document),
    )


def _bytes_besides_tables(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, *, is_trained: bool
) -> dict[str, int]:
    """Return the bytes of each device by kind, the tables' own left out."""
    rows = -(-settings.batch_rows // cluster.world)
    shrink = 2 if settings.bf16 else 1  # bf16 has half the bytes of fp32
    embedded = _FP32 * work.embedded_units
    if is_trained:
        # Row-wise tables make partial sums for every row of the batch before they are scattered.
        sizes = {
            "dense": _COPIES_OF_DENSE * _FP32 * work.dense.parameters,
            "activations": int(rows * (work.dense.kept_bytes / shrink + 3 * embedded)),
            "exchange": int(2 * settings.batch_rows * embedded),
        }
    else:
        bank = work.kernels
        kernel, cohort = bank.units * _FP32, _cohort_kernels(settings)
        rows = max(rows, LOOKED_UP_ROWS)
        sizes = {
            "dense": work.dense.weight_bytes,
            "activations": int(rows * (2 * embedded + 4 * _FP32 * bank.kept_units)),
            "exchange": int(2 * rows * work.ids_per_row * _FP32 * _mean_width(work)),
            # Every kernel at its start and its end; of a cohort also the current and the best ones.
            "bank": 2 * (bank.domains + cohort) * kernel,
            "moments": 2 * cohort * kernel,
            "kept activations": _activation_bytes(work, settings, cluster),
        }
    return {**sizes, "input": int(_batch_bytes(work, rows))}


def _activation_bytes(work: Workload, settings: JobSettings, cluster: ClusterSpec) -> int:
    """Return the bytes of a worker's activations in memory; 0 where they lie in a file."""
    own = settings.rows / cluster.world * work.kernels.kept_units * settings.kept_bytes
    return int(own) if own <= settings.cache_gib * GIB else 0


def _mean_width(work: Workload) -> float:
    """Return the mean columns of a table."""
    return sum(shape.width for shape in work.shapes) / max(len(work.shapes), 1)


def _batch_bytes(work: Workload, rows: int) -> float:
    """Return the bytes of a batch: ids, lengths, numbers, labels and masks."""
    lengths = _ID_BYTES * len(work.ids)
    return rows * (
        _ID_BYTES * work.ids_per_row + lengths + _FP32 * work.numbers + 2 * _FP32 * work.tasks
    )


def _host_bytes(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, *, is_trained: bool
) -> int:
    """Return the bytes of a machine's batches in flight; in tuning, also of its encoded rows."""
    rows = -(-settings.batch_rows // cluster.world)
    size = _PREFETCHED * _batch_bytes(work, rows)
    if not is_trained:
        size += _batch_bytes(work, -(-settings.rows // cluster.world))
    return int(cluster.devices_per_node * size)


def _phases(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, document: PlanDocument
) -> dict[str, tuple[Step, int, float]]:
    """Return the phases: pre-training's steps, or one pass through the base and the levels'."""
    per = settings.batch_rows
    if document.job == "pretrain":
        return {
            "steps": (
                _train_step(work, settings, cluster, document),
                per,
                settings.rows * settings.passes,
            )
        }
    base_rows = cluster.world * LOOKED_UP_ROWS
    base = _base_step(work, settings, cluster, document, base_rows)
    phases = {"the base, once": (base, base_rows, float(settings.rows))}
    for level in settings.levels:
        pace = _pace(level, settings)
        step = _kernel_step(work, settings, cluster, pace)
        phases[f"kernels: {level.name}"] = (step, round(pace.rows), pace.all_rows)
    return phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A level's steps, as pipeline.tuning.schedule plans them for domains of equal size."""

    domains: int
    """Domains in a step."""
    rows: float
    """Rows of a step, of all workers."""
    all_rows: float
    """Rows of all its epochs."""


def _cohort_kernels(settings: JobSettings) -> int:
    """Return the kernels of the largest cohort, as pipeline.tuning.cohorts forms them."""
    return max(_pace(level, settings).domains for level in settings.levels)


def _pace(level: Level, settings: JobSettings) -> Pace:
    """Return a level's steps, by the rule of pipeline.tuning.schedule."""
    stage, own = level.stage, settings.rows / level.kernels
    batch = 2 ** round(math.log2(max(own / stage.steps_per_epoch, 1)))
    steps = max(round(own / min(max(batch, stage.min_batch), stage.max_batch)), 1)
    rows = own / steps
    fill = max(1, round(settings.batch_rows / rows))
    domains = min(level.kernels, fill, max(1, settings.batch_rows // stage.min_batch))
    used = min(steps, stage.max_steps_per_epoch) * rows
    epochs = stage.compression_epochs + stage.max_epochs
    return Pace(domains=domains, rows=domains * rows, all_rows=level.kernels * used * epochs)


def _train_step(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, document: PlanDocument
) -> Step:
    """Estimate a step of pre-training: lookups, exchange, products, and updates."""
    remote, batch = _remote_share(cluster), settings.batch_rows
    by_rank = [_pooled_bytes(work, document, rank, batch) for rank in range(cluster.world)]
    sent = {
        "ids": _ID_BYTES * work.ids_per_row * batch / cluster.world * remote,
        "pooled rows": max(by_rank) * remote,
        "gradients of rows": max(by_rank) * remote,
        "gradients of trunk and towers": 2 * _FP32 * work.dense.parameters * remote,
    }
    read = max(_read_bytes(work, document, cluster, rank, batch) for rank in range(cluster.world))
    return Step(
        seconds={
            "lookups": _memory_s(3 * read, cluster),  # read, then read and written by the optimiser
            "links": _links_s(sent, cluster, collectives=6),
            "products": _products_s(3 * work.dense.flops * batch, settings, cluster),
            "launches": cluster.constants.step_ms / 1e3,
            "input": _input_s(batch, cluster),
        },
        sent=sent,
    )


def _base_step(
    work: Workload, settings: JobSettings, cluster: ClusterSpec, document: PlanDocument, batch: int
) -> Step:
    """Estimate a step through the frozen base: lookups, exchange, and the forward pass."""
    remote = _remote_share(cluster)
    answers = [_rank_answer_bytes(work, document, cluster, rank) for rank in range(cluster.world)]
    sent = {
        "ids": _ID_BYTES * work.ids_per_row * batch / cluster.world * remote,
        "rows": max(answers) * batch * remote,
    }
    read = max(_read_bytes(work, document, cluster, rank, batch) for rank in range(cluster.world))
    return Step(
        seconds={
            "lookups": _memory_s(read, cluster),
            "links": _links_s(sent, cluster, collectives=3),
            "products": _products_s(work.dense.flops * batch, settings, cluster),
            "launches": cluster.constants.step_ms / 1e3,
            "input": _input_s(batch, cluster),
        },
        sent=sent,
    )


def _kernel_step(work: Workload, settings: JobSettings, cluster: ClusterSpec, pace: Pace) -> Step:
    """Estimate a step of tuning: stored activations through the kernels, forward and backward."""
    bank, batch, domains = work.kernels, pace.rows, pace.domains
    sent = {"gradients of kernels": 2 * _FP32 * domains * bank.units * _remote_share(cluster)}
    local = batch / cluster.world
    moved = (
        local * bank.kept_units * (settings.kept_bytes + 2 * _FP32)
        + 8 * _FP32 * domains * bank.units
    )
    # Where the rate was measured, it replaces the parts that are estimated.
    measured = cluster.constants.cached_rows_per_s
    seconds = {
        "memory": _memory_s(moved, cluster),
        "products": _products_s(3 * bank.flops * batch, settings, cluster),
        "launches": cluster.constants.step_ms / 1e3,
    }
    if measured:
        seconds = {"rows, as measured": local / measured}
    return Step(seconds={**seconds, "links": _links_s(sent, cluster, collectives=1)}, sent=sent)


def _remote_share(cluster: ClusterSpec) -> float:
    """Return the share of exchanged bytes that leaves a rank."""
    return (cluster.world - 1) / cluster.world


def _pooled_bytes(work: Workload, document: PlanDocument, rank: int, batch: int) -> float:
    """Return the bytes of fp32 sums that a rank computes: a bag for each feature of its tables."""
    readers = {shape.name: len(shape.features) for shape in work.shapes}
    cols = sum(
        readers[table.table] * shard.cols
        for table in document.tables
        for shard in table.shards
        if shard.rank == rank and shard.rows
    )
    return float(_FP32 * cols * batch)


def _rank_answer_bytes(
    work: Workload, document: PlanDocument, cluster: ClusterSpec, rank: int
) -> float:
    """Return the bytes per row of the log with which a rank answers for its shards.

    Ids are taken as spread evenly over a table's rows.
    """
    return sum(
        _table_answer_bytes(table, work, cluster)
        * shard.rows
        * shard.cols
        / (table.rows * table.width)
        for table in document.tables
        for shard in table.shards
        if shard.rank == rank
    )


def _table_answer_bytes(table: TableDocument, work: Workload, cluster: ClusterSpec) -> float:
    """Return the bytes with which a frozen table answers for a row of the log."""
    readers = next(shape.features for shape in work.shapes if shape.name == table.table)
    stored = _row_bytes(table, table.width, cluster, is_trained=False)
    return sum(min(work.ids[f] * stored, float(_FP32 * table.width)) for f in readers)


def _read_bytes(
    work: Workload, document: PlanDocument, cluster: ClusterSpec, rank: int, batch: int
) -> float:
    """Return the bytes of table rows that a rank reads in a step.

    Ids are taken as spread evenly over a table's rows.
    """
    total = 0.0
    is_trained = document.job == "pretrain"
    readers = {shape.name: shape.features for shape in work.shapes}
    for table in document.tables:
        ids = sum(work.ids[f] for f in readers[table.table]) * batch
        for shard in table.shards:
            if shard.rank == rank:
                width = _row_bytes(table, shard.cols, cluster, is_trained=is_trained)
                total += ids * shard.rows / table.rows * width
    return total


def _memory_s(num_bytes: float, cluster: ClusterSpec) -> float:
    """Return the seconds in which a device reads or writes these bytes."""
    return num_bytes / (cluster.device_gb_per_s * 1e9 * cluster.constants.lookup_efficiency)


def _products_s(flops: float, settings: JobSettings, cluster: ClusterSpec) -> float:
    """Return the seconds of a step's FLOPs, spread over all ranks."""
    tflops = cluster.tflops_bf16 if settings.bf16 else cluster.tflops_fp32
    return flops / cluster.world / (tflops * 1e12 * cluster.constants.matmul_efficiency)


def _links_s(sent: Mapping[str, float], cluster: ClusterSpec, *, collectives: int) -> float:
    """Return the seconds in which a rank sends its bytes, and the latency of its calls.

    Links inside a machine and between machines work at the same time.
    """
    if cluster.world == 1:
        return 0.0
    total, world = sum(sent.values()), cluster.world
    far = total * (world - cluster.devices_per_node) / (world - 1)
    rates = [
        ((total - far), cluster.intra_gb_per_s),
        (far, cluster.inter_gb_per_s),
    ]
    slowest = max(b / (rate * 1e9 * cluster.constants.network_efficiency) for b, rate in rates)
    hops = 1 if cluster.nodes == 1 else 2
    return slowest + collectives * hops * cluster.constants.collective_us / 1e6


def _input_s(batch: int, cluster: ClusterSpec) -> float:
    """Return the seconds in which all cores read and encode a batch."""
    rows_per_s = cluster.nodes * cluster.cores_per_node * cluster.constants.rows_per_s_core
    return batch / rows_per_s


def phase_lines(result: Estimate) -> list[PhaseLine]:
    """Return the phases as lines for people and records."""
    return [
        PhaseLine(
            phase=name,
            rows_per_step=per,
            rows=round(rows),
            step_ms=round(step.total_s * 1e3, 3),
            rows_per_s=round(per / step.total_s),
            hours=round(step.total_s * rows / per / 3600, 4),
            bottleneck=step.bottleneck,
            ms={key: round(value * 1e3, 3) for key, value in step.seconds.items()},
            sent_mib_per_rank={key: round(v / 2**20, 3) for key, v in step.sent.items()},
        )
        for name, (step, per, rows) in result.phases.items()
    ]
