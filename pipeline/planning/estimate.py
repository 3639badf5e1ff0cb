"""Memory of every rank, bytes on the wire, time and money of a job on a cluster.

Memory is counted; time is estimated, from bytes and FLOPs over the cluster's stated rates times its
constants (schemas.cluster.ConstantsSpec). Nothing here has seen the cluster.

Bytes out of a rank in a step of B rows over W ranks, with A = (W - 1) / W:

    ids           8 * ids * B / W * A                         to the rows' owners
    table-wise    4 * width * B * A for a rank's own tables   pooled rows, and gradients back
    row-wise      4 * width * B * A on every rank             partial sums, and gradients back
    column-wise   as table-wise, a rank's own columns
    frozen        row bytes * ids * B * A for a rank's part of the tables, or summed rows where
                  those are fewer; nothing back
    dense         2 * 4 * parameters * A                      all-reduce

Shapes: W ranks; all sizes are bytes unless a name says otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from iak.pipeline.planning.workload import Workload
from iak.pipeline.sharding.placement_search import GIB
from iak.pipeline.sharding.quantised import stride_bytes
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import StageSpec
from iak.schemas.plan import PlanDocument, ShardDocument, TableDocument

_FP32, _ID_BYTES = 4, 8
_PREFETCHED = 4
"""Batches that the reader may be ahead."""
LOOKED_UP_ROWS = 8192
"""Rows that a worker passes through the frozen base, or validates, at a time."""
_COPIES_OF_DENSE = 5
"""Weight, gradient, DDP's bucket, two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Kernels that are tuned together, and how."""

    name: str
    kernels: int
    stage: StageSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How the job is run."""

    batch_rows: int
    """Rows a step, over all workers."""
    rows: int
    """Rows of the log that are trained on, or tuned on."""
    passes: float
    """Of pre-training over these rows."""
    levels: tuple[Level, ...]
    """Of tuning, from the pooled kernel down, each to the most epochs that its stage allows."""
    bf16: bool
    kept_bytes: int
    """Of one activation in the cache."""
    cache_gib: float
    """GiB of activations a worker holds in memory at most; beyond it they lie in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where the time of a step goes, in seconds on the slowest rank, and bytes out of it."""

    seconds: Mapping[str, float]
    """By what it is spent on. `input` runs beside the others."""
    sent: Mapping[str, float]
    """By what is sent."""

    @property
    def total_s(self) -> float:
        """The rest of a step, or its input where that takes longer."""
        rest = sum(s for name, s in self.seconds.items() if name != "input")
        return max(rest, self.seconds.get("input", 0.0))

    @property
    def binds(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A job on a cluster."""

    cluster: ClusterSpec
    document: PlanDocument
    planner_ms: float
    memory: tuple[Mapping[str, int], ...]
    """By rank, bytes by kind."""
    host_bytes: int
    """Of each machine: kept activations, and batches in flight."""
    phases: Mapping[str, tuple[Step, int, float]]
    """A name -> its step, the rows of one, and the rows that pass through it in all."""

    @property
    def usable_bytes(self) -> int:
        """Of a device, without the share that is never planned into."""
        cluster = self.cluster
        return int(cluster.device_memory_gib * GIB * (1 - cluster.constants.reserve_share))

    @property
    def most_bytes(self) -> int:
        """Of the fullest rank."""
        return max(sum(held.values()) for held in self.memory)

    @property
    def hours(self) -> float:
        """All phases one after the other."""
        return sum(s.total_s * rows / per for s, per, rows in self.phases.values()) / 3600

    @property
    def money(self) -> float:
        """In the cluster's currency."""
        return self.hours * self.cluster.nodes * self.cluster.price_per_hour

    @property
    def rows_per_s(self) -> float:
        """Rows that pass through a phase a second, over all phases."""
        rows = sum(rows for _, _, rows in self.phases.values())
        return rows / max(self.hours * 3600, 1e-12)

    def problems(
        self, *, max_hours: float | None = None, max_cost: float | None = None
    ) -> list[str]:
        """Why it does not fit, each with the numbers; none where it does."""
        told, cluster = [], self.cluster
        if self.most_bytes > self.usable_bytes:
            rank = max(range(len(self.memory)), key=lambda r: sum(self.memory[r].values()))
            largest = max(self.memory[rank], key=lambda kind: self.memory[rank][kind])
            told.append(
                f"rank {rank} needs {self.most_bytes / GIB:.1f} GiB, most of it {largest}; "
                f"{self.usable_bytes / GIB:.1f} of {cluster.device_memory_gib:g} GiB may be planned"
            )
        if self.host_bytes > cluster.host_memory_gib * GIB:
            told.append(
                f"a machine needs {self.host_bytes / GIB:.1f} GiB of host memory; "
                f"it has {cluster.host_memory_gib:g}"
            )
        if max_hours is not None and self.hours > max_hours:
            told.append(f"it takes about {self.hours:.2f} hours; max_hours is {max_hours:g}")
        if max_cost is not None and self.money > max_cost:
            told.append(
                f"it costs about {self.money:,.2f} {cluster.currency}; max_cost is {max_cost:g}"
            )
        return told


def held_bytes(
    table: TableDocument, shard: ShardDocument, cluster: ClusterSpec, *, is_trained: bool
) -> int:
    """Bytes of a shard's weights: fp32 where they are trained, else rows as frozen tables lie."""
    return shard.rows * _row_bytes(table, shard.cols, cluster, is_trained=is_trained)


def _row_bytes(table: TableDocument, cols: int, cluster: ClusterSpec, *, is_trained: bool) -> int:
    """On CUDA, a frozen row begins at a multiple of 16 bytes."""
    device = torch.device(cluster.device)
    return _FP32 * cols if is_trained else stride_bytes(table.precision, cols, device)


def reserved(work: Workload, asked: Asked, cluster: ClusterSpec, *, is_trained: bool) -> int:
    """Bytes of each device that the planner must leave free; it counts batches and exchange."""
    besides = _besides_tables(work, asked, cluster, is_trained=is_trained)
    besides = {kind: held for kind, held in besides.items() if kind not in ("input", "exchange")}
    share = cluster.device_memory_gib * GIB * cluster.constants.reserve_share
    return int(sum(besides.values()) + share)


def estimate(
    work: Workload, asked: Asked, cluster: ClusterSpec, document: PlanDocument, planner_ms: float
) -> Estimate:
    """The whole answer for one cluster and plan."""
    is_trained = document.job == "pretrain"
    besides = _besides_tables(work, asked, cluster, is_trained=is_trained)
    memory = []
    for rank in range(cluster.world):
        shards = [(t, s) for t in document.tables for s in t.shards if s.rank == rank]
        tables = sum(held_bytes(t, s, cluster, is_trained=is_trained) for t, s in shards)
        momentum = sum(_FP32 * shard.rows for _, shard in shards) if is_trained else 0
        memory.append({"tables": tables, "table optimiser": momentum, **besides})
    return Estimate(
        cluster=cluster,
        document=document,
        planner_ms=planner_ms,
        memory=tuple(memory),
        host_bytes=_host_bytes(work, asked, cluster, is_trained=is_trained),
        phases=_phases(work, asked, cluster, document),
    )


def _besides_tables(
    work: Workload, asked: Asked, cluster: ClusterSpec, *, is_trained: bool
) -> dict[str, int]:
    """Bytes of each device by kind, the tables' own left out."""
    rows = -(-asked.batch_rows // cluster.world)
    shrunk = 2 if asked.bf16 else 1
    embedded = _FP32 * work.x_units
    if is_trained:
        # Row-wise tables make partial sums for every row of the batch before they are scattered.
        held = {
            "dense": _COPIES_OF_DENSE * _FP32 * work.dense.parameters,
            "activations": int(rows * (work.dense.kept_bytes / shrunk + 3 * embedded)),
            "exchange": int(2 * asked.batch_rows * embedded),
        }
    else:
        bank = work.kernels
        kernel, at_once = bank.units * _FP32, _at_once(asked)
        rows = max(rows, LOOKED_UP_ROWS)
        held = {
            "dense": _FP32 * work.dense.parameters,
            "activations": int(rows * (2 * embedded + 4 * _FP32 * bank.kept_units)),
            "exchange": int(2 * rows * work.ids_a_row * _FP32 * _mean_width(work)),
            "bank": 2 * (bank.domains + at_once) * kernel,  # as they start and end; now and best
            "moments": 2 * at_once * kernel,
            "kept activations": _kept_bytes(work, asked, cluster),
        }
    return {**held, "input": int(_batch_bytes(work, rows))}


def _kept_bytes(work: Workload, asked: Asked, cluster: ClusterSpec) -> int:
    """Activations of a worker's rows, where the base computes; too many of them lie in a file."""
    own = asked.rows / cluster.world * work.kernels.kept_units * asked.kept_bytes
    return int(own) if own <= asked.cache_gib * GIB else 0


def _mean_width(work: Workload) -> float:
    return sum(shape.width for shape in work.shapes) / max(len(work.shapes), 1)


def _batch_bytes(work: Workload, rows: int) -> float:
    """A batch on a device: ids, lengths, numbers, labels and masks."""
    lengths = _ID_BYTES * len(work.ids)
    return rows * (
        _ID_BYTES * work.ids_a_row + lengths + _FP32 * work.numbers + 2 * _FP32 * work.tasks
    )


def _host_bytes(work: Workload, asked: Asked, cluster: ClusterSpec, *, is_trained: bool) -> int:
    """Batches in flight of a machine's workers; of tuning, also its encoded rows and labels."""
    rows = -(-asked.batch_rows // cluster.world)
    held = _PREFETCHED * _batch_bytes(work, rows)
    if not is_trained:
        held += _batch_bytes(work, -(-asked.rows // cluster.world))
    return int(cluster.devices_per_node * held)


def _phases(
    work: Workload, asked: Asked, cluster: ClusterSpec, document: PlanDocument
) -> dict[str, tuple[Step, int, float]]:
    """Pre-training's steps; or the base's one pass, and the bank's many over what was kept."""
    per = asked.batch_rows
    if document.job == "pretrain":
        return {
            "steps": (_train_step(work, asked, cluster, document), per, asked.rows * asked.passes)
        }
    base_rows = cluster.world * LOOKED_UP_ROWS
    base = _base_step(work, asked, cluster, document, base_rows)
    phases = {"the base, once": (base, base_rows, float(asked.rows))}
    for level in asked.levels:
        pace = _pace(level, asked)
        step = _kernel_step(work, asked, cluster, pace)
        phases[f"kernels: {level.name}"] = (step, round(pace.rows), pace.all_rows)
    return phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A level's steps, as pipeline.training.schedule makes them of domains of one size."""

    present: int
    """Domains in a step."""
    rows: float
    """Of a step, over all workers."""
    all_rows: float
    """Of all its epochs."""


def _at_once(asked: Asked) -> int:
    """Kernels of the largest cohort: those of a step, as pipeline.training.cohorts makes them."""
    return max(_pace(level, asked).present for level in asked.levels)


def _pace(level: Level, asked: Asked) -> Pace:
    stage, own = level.stage, asked.rows / level.kernels
    batch = 2 ** round(math.log2(max(own / stage.steps_per_epoch, 1)))
    steps = max(round(own / min(max(batch, stage.min_batch), stage.max_batch)), 1)
    rows = own / steps
    fill = max(1, round(asked.batch_rows / rows))
    present = min(level.kernels, fill, max(1, asked.batch_rows // stage.min_batch))
    used = min(steps, stage.max_steps_per_epoch) * rows
    epochs = stage.compression_epochs + stage.max_epochs
    return Pace(present=present, rows=present * rows, all_rows=level.kernels * used * epochs)


def _train_step(work: Workload, asked: Asked, cluster: ClusterSpec, document: PlanDocument) -> Step:
    """Everything is read, sent, multiplied, and updated."""
    away, batch = _away(cluster), asked.batch_rows
    by_rank = [_pooled_bytes(work, document, rank, batch) for rank in range(cluster.world)]
    sent = {
        "ids": _ID_BYTES * work.ids_a_row * batch / cluster.world * away,
        "pooled rows": max(by_rank) * away,
        "gradients of rows": max(by_rank) * away,
        "gradients of trunk and towers": 2 * _FP32 * work.dense.parameters * away,
    }
    read = max(_read_bytes(work, document, cluster, rank, batch) for rank in range(cluster.world))
    return Step(
        seconds={
            "lookups": _memory_s(3 * read, cluster),  # read, then read and written by the optimiser
            "links": _links_s(sent, cluster, collectives=6),
            "products": _products_s(3 * work.dense.flops * batch, asked, cluster),
            "launches": cluster.constants.step_ms / 1e3,
            "input": _input_s(batch, cluster),
        },
        sent=sent,
    )


def _base_step(
    work: Workload, asked: Asked, cluster: ClusterSpec, document: PlanDocument, batch: int
) -> Step:
    """Rows are read, looked up in frozen tables and go forward; nothing comes back."""
    away = _away(cluster)
    answers = [_answered_bytes(work, document, cluster, rank) for rank in range(cluster.world)]
    sent = {
        "ids": _ID_BYTES * work.ids_a_row * batch / cluster.world * away,
        "rows": max(answers) * batch * away,
    }
    read = max(_read_bytes(work, document, cluster, rank, batch) for rank in range(cluster.world))
    return Step(
        seconds={
            "lookups": _memory_s(read, cluster),
            "links": _links_s(sent, cluster, collectives=3),
            "products": _products_s(work.dense.flops * batch, asked, cluster),
            "launches": cluster.constants.step_ms / 1e3,
            "input": _input_s(batch, cluster),
        },
        sent=sent,
    )


def _kernel_step(work: Workload, asked: Asked, cluster: ClusterSpec, pace: Pace) -> Step:
    """Kept activations through the kernels of the domains that are present, and back."""
    bank, batch, present = work.kernels, pace.rows, pace.present
    sent = {"gradients of kernels": 2 * _FP32 * present * bank.units * _away(cluster)}
    local = batch / cluster.world
    moved = (
        local * bank.kept_units * (asked.kept_bytes + 2 * _FP32) + 8 * _FP32 * present * bank.units
    )
    measured = cluster.constants.cached_rows_per_s
    seconds = {
        "memory": _memory_s(moved, cluster),
        "products": _products_s(3 * bank.flops * batch, asked, cluster),
        "launches": cluster.constants.step_ms / 1e3,
    }
    if measured:
        seconds = {"rows, as measured": local / measured}
    return Step(seconds={**seconds, "links": _links_s(sent, cluster, collectives=1)}, sent=sent)


def _away(cluster: ClusterSpec) -> float:
    """The share of what is exchanged that leaves a rank."""
    return (cluster.world - 1) / cluster.world


def _pooled_bytes(work: Workload, document: PlanDocument, rank: int, batch: int) -> float:
    """Bytes of pooled rows, fp32, that a rank makes: a bag for every feature that reads a table."""
    readers = {shape.name: len(shape.features) for shape in work.shapes}
    cols = sum(
        readers[table.table] * shard.cols
        for table in document.tables
        for shard in table.shards
        if shard.rank == rank and shard.rows
    )
    return float(_FP32 * cols * batch)


def _answered_bytes(
    work: Workload, document: PlanDocument, cluster: ClusterSpec, rank: int
) -> float:
    """Bytes a row with which a rank answers for its shards; ids fall evenly over a table."""
    return sum(
        _answer_bytes(table, work, cluster) * shard.rows * shard.cols / (table.rows * table.width)
        for table in document.tables
        for shard in table.shards
        if shard.rank == rank
    )


def _answer_bytes(table: TableDocument, work: Workload, cluster: ClusterSpec) -> float:
    """Bytes a row that a frozen table answers with: rows as stored, or their sum."""
    readers = next(shape.features for shape in work.shapes if shape.name == table.table)
    stored = _row_bytes(table, table.width, cluster, is_trained=False)
    return sum(min(work.ids[f] * stored, float(_FP32 * table.width)) for f in readers)


def _read_bytes(
    work: Workload, document: PlanDocument, cluster: ClusterSpec, rank: int, batch: int
) -> float:
    """Bytes of table rows that a rank reads in a step: ids fall evenly over a table's rows."""
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
    return num_bytes / (cluster.device_gb_per_s * 1e9 * cluster.constants.lookup_efficiency)


def _products_s(flops: float, asked: Asked, cluster: ClusterSpec) -> float:
    """FLOPs of a whole step, spread over all ranks."""
    tflops = cluster.tflops_bf16 if asked.bf16 else cluster.tflops_fp32
    return flops / cluster.world / (tflops * 1e12 * cluster.constants.matmul_efficiency)


def _links_s(sent: Mapping[str, float], cluster: ClusterSpec, *, collectives: int) -> float:
    """What leaves a rank for its own machine and for others; both links work at once."""
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
    rows_per_s = cluster.nodes * cluster.cores_per_node * cluster.constants.rows_per_s_core
    return batch / rows_per_s


def as_rows(found: Estimate) -> Sequence[Mapping[str, object]]:
    """Phases as lines: what a person reads, and JSON holds."""
    return [
        {
            "phase": name,
            "rows_a_step": per,
            "rows": round(rows),
            "step_ms": round(step.total_s * 1e3, 3),
            "rows_per_s": round(per / step.total_s),
            "hours": round(step.total_s * rows / per / 3600, 4),
            "binds": step.binds,
            "ms": {key: round(value * 1e3, 3) for key, value in step.seconds.items()},
            "sent_mib_a_rank": {key: round(v / 2**20, 3) for key, v in step.sent.items()},
        }
        for name, (step, per, rows) in found.phases.items()
    ]
