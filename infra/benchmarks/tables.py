"""Measure whether a night costs more on a frozen table of a billion rows than on a small one.

Tables of several sizes are written, row-wise over the workers. All of them stay in memory, so that
their steps and lookups are measured in turns, slice by slice. Whatever else the machine does slows
all of them alike. A step looks up 40 ids a row, half of them uniform over the table and half
Zipf's, runs a small frozen trunk, and moves the kernels of some domains of a bank.

Shapes: B rows of this worker, I ids, T tasks, P domains of a step, N units of a kernel.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.bench.ids import drawn
from iak.pipeline.bench.limits import free_bytes, kib_of
from iak.pipeline.bench.times import quantile
from iak.pipeline.errors import Corrupt, DoesNotFit
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.iak import bank as banks
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.iak.loss import bottleneck_loss
from iak.pipeline.model.digest import freeze
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import TableShape
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.progress import following, worker_report
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.row_format import row_bytes
from iak.pipeline.sharding.shard import freeze_tables
from iak.pipeline.tuning.optim import BankAdam
from iak.schemas.job import KernelSpec, Precision
from iak.schemas.plan import PlacementRuleSpec
from iak.schemas.record import BenchmarkLine, BenchmarkResult, Target
from infra.benchmarks import counted
from infra.benchmarks.specs import BenchTablesSpec

MAX_STEP_RATIO = 1.5
"""Times the step of the smallest table that the step of the largest may take."""
_SINGLE, _LISTS, _LIST_IDS = 4, 1, 16
"""For each law, uniform and Zipf's: features with one id per row, features with a list, its ids."""
_FEATURES = tuple(
    (f"{law}{number}", law, 1 if number < _SINGLE else _LIST_IDS)
    for law in ("uniform", "zipf")
    for number in range(_SINGLE + _LISTS)
)
_TASKS = (TaskShape(name="ctr", kind="click"), TaskShape(name="cvr", kind="conversion", given=0))
_TASK_UNITS, _MLP, _TOWER = 32, 128, 32
_SPARE_BYTES = 2 * 2**30
_WARM_UP_STEPS = 3


def measure(spec: BenchTablesSpec, report: Report) -> BenchmarkResult:
    """Return the table's lines, the target, notes, and the machine's ceiling.

    Raises:
        BadRequest: rows of this width and precision cannot all differ.
        DoesNotFit: the tables need more memory than is free.
        Corrupt: a row is not what was written.
    """
    for rows in _sizes(spec):
        counted.check(spec.precision, rows=rows, width=spec.dim)
    free = _check_memory(spec)
    progress = spec.out / "tables.progress.jsonl"
    with following(progress, report):
        by_worker = run_on_workers(_on_worker, spec.workers, spec, progress)
    progress.unlink(missing_ok=True)
    lines = [
        _line(spec, parts) for parts in zip(*(result.tables for result in by_worker), strict=True)
    ]
    base = lines[0].step_p50_ms
    lines = [line.model_copy(update={"ratio": line.step_p50_ms / base}) for line in lines]
    ceilings = {"worker_bytes_per_s": min(result.bytes_per_s for result in by_worker)}
    return BenchmarkResult(
        rows=[line.as_row() for line in lines],
        targets=[_target(lines)],
        notes=_notes(spec, lines, free),
        limits=ceilings,
    )


class SizeLine(BenchmarkLine):
    """A table of one size: the slowest worker's times, every worker's memory."""

    rows: int
    precision: Precision
    dim: int
    bytes_per_worker: tuple[int, ...]
    rss_bytes_per_worker: tuple[int | None, ...]
    """Resident bytes of each worker after the table was written; null where the system does not
    show them."""
    write_s: float
    rows_compared: int
    """Rows that were looked up and compared with what was written."""
    uniform_through_all_workers_per_s: int
    uniform_of_own_rows_per_s: int
    zipf_through_all_workers_per_s: int
    zipf_of_own_rows_per_s: int
    step_p50_ms: float
    step_p90_ms: float
    lookup_p50_ms: float
    slice_p50_ms: tuple[float, ...]
    ratio: float = 1.0
    """Its median step over the smallest table's."""


@dataclass(slots=True)
class OneTable:
    """Measurements of one table on one worker."""

    rows: int
    held_bytes: int
    rss_bytes: int | None
    """Resident bytes of the process after the table was written."""
    write_s: float
    checked: int
    step_s: list[float] = field(default_factory=list)
    lookup_s: list[float] = field(default_factory=list)
    """Seconds of the lookups of the same steps."""
    slice_p50_s: list[float] = field(default_factory=list)
    lookups_per_s: dict[str, list[float]] = field(default_factory=dict)
    """Lookups per second by law, through all workers or only of this worker's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """Results of one worker."""

    tables: list[OneTable]
    bytes_per_s: float


def _sizes(spec: BenchTablesSpec) -> list[int]:
    return [*spec.smaller, spec.rows]


def _on_worker(worker: Worker, spec: BenchTablesSpec, progress: Path) -> WorkerResult:
    """Do one worker's part of the benchmark."""
    report = worker_report(progress, worker.rank)
    tables, setups = [], []
    for rows in _sizes(spec):
        setup, table = _written(spec, rows, worker, report)
        setups.append(setup)
        tables.append(table)
    for done in range(spec.repeats):
        for setup, table in zip(setups, tables, strict=True):
            _measure_slice(setup, table, first_step=done * spec.slice_steps)
            for law in ("uniform", "zipf"):
                _measure_lookups(setup, table, law, turn=done)
        report(WorkDone("slices", done + 1, spec.repeats))
    return WorkerResult(tables=tables, bytes_per_s=_copied_bytes_per_s())


def _written(
    spec: BenchTablesSpec, rows: int, worker: Worker, report: Report
) -> tuple["TableSetup", OneTable]:
    """Build a table of `rows` rows behind a small base, write every row, and compare some."""
    started = time.perf_counter()
    setup = TableSetup(spec, rows, worker)
    (shard,) = setup.tables.local_shards()
    last_report = started
    for done in counted.write(shard.tensor_RW, spec.precision, first_row=shard.row_offset):
        now = time.perf_counter()
        if now - last_report > 1:
            report(WorkDone(f"rows of {rows:,}", done, len(shard.tensor_RW)))
            last_report = now
    dist.barrier()
    seconds = time.perf_counter() - started
    return setup, OneTable(
        rows=rows,
        held_bytes=setup.tables.num_bytes,
        rss_bytes=_resident_bytes(),
        write_s=seconds,
        checked=_compare(setup, spec.checked_rows),
    )


class TableSetup:
    """A frozen base with a single table, and a bank of kernels to tune on it."""

    def __init__(self, spec: BenchTablesSpec, rows: int, worker: Worker) -> None:
        """Lay out the table, not yet written."""
        self.spec, self.rows, self.worker = spec, rows, worker
        names = [name for name, _, _ in _FEATURES]
        shape = TableShape(name="t", rows=rows, width=spec.dim, features=tuple(names))
        plan = plan_tables(
            [shape],
            world=worker.world,
            device=worker.device,
            rule=PlacementRuleSpec(sharding={"t": "row_wise"}),
        )
        torch.manual_seed(spec.seed)
        self.model = Recommender(
            tables=build_tables([shape], init_scale=1.0, device=torch.device("meta")),
            features=names,
            num_numeric=0,
            trunk=Mlp(
                width=len(names) * spec.dim,
                mlp=(_MLP, len(_TASKS) * _TASK_UNITS),
                expert_width=_TASK_UNITS,
                tasks=len(_TASKS),
            ),
            heads=Heads(tasks=len(_TASKS), width=_TASK_UNITS, hidden=_TOWER),
        )
        freeze(self.model)
        self.tables: FrozenTables = freeze_tables(
            self.model, plan, worker=worker, precisions={"t": spec.precision}
        )
        self.bank = banks.fresh_bank(
            _kernel_shape(self.model),
            [f"domain {number}" for number in range(spec.domains)],
            seed=spec.seed,
        )
        self.adam = BankAdam(self.bank.flat_KN, lr=1e-3)


def _kernel_shape(model: Recommender) -> KernelShape:
    """Return the default kernel on this base."""
    return KernelShape.on(model.heads, KernelSpec(), inputs=sum(model.attach_points.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """This worker's rows of a step, sorted by domain."""

    ids: KeyedJaggedTensor
    slots: list[int]
    rows: Segments
    labels_BT: Tensor
    noise_BC: Tensor


def _step_rows(setup: TableSetup, step: int) -> StepRows:
    """Draw rows that no other step reads."""
    spec, worker = setup.spec, setup.worker
    rows = max(spec.batch_rows // worker.world, 1)
    draw = torch.Generator().manual_seed(spec.seed + step * worker.world + worker.rank)
    present = min(spec.domains_per_step, spec.domains)
    first = step * present % (spec.domains - present + 1)
    lengths = [rows // present + (slot < rows % present) for slot in range(present)]
    ids = [drawn(law, rows * count, setup.rows, draw) for _, law, count in _FEATURES]
    counts = torch.tensor([count for _, _, count in _FEATURES], dtype=torch.int32)
    return StepRows(
        ids=KeyedJaggedTensor(
            keys=[name for name, _, _ in _FEATURES],
            values=torch.cat(ids),
            lengths=counts.repeat_interleave(rows),
        ),
        slots=list(range(first, first + present)),
        rows=Segments.of(lengths),
        labels_BT=(torch.rand(rows, len(_TASKS), generator=draw) < 0.2).float(),
        noise_BC=torch.randn(rows, setup.bank.shape.code, generator=draw),
    )


def _tuning_step(setup: TableSetup, batch: StepRows) -> float:
    """Move the kernels of a step's domains, and return the seconds of the lookups.

    It does what `iak.pipeline.tuning.tune` does in a step, and looks its rows up in the step.
    """
    model, bank = setup.model, setup.bank
    started = time.perf_counter()
    with torch.no_grad():
        embedded = model.embed(batch.ids, rows=len(batch.labels_BT)).means
        looked_up = time.perf_counter() - started
        x_BX = torch.cat(embedded, dim=1)
        h_BH = model.trunk(x_BX)
    flat_PN = bank.flat_KN[batch.slots].requires_grad_()
    loss = _loss(setup, batch, flat_PN, h_BH, torch.cat([h_BH, x_BX], dim=1))
    (gradients_PN,) = torch.autograd.grad(loss, [flat_PN])
    dist.all_reduce(gradients_PN)
    setup.adam.step(batch.slots, gradients_PN)
    return looked_up


def _loss(
    setup: TableSetup, batch: StepRows, flat_PN: Tensor, h_BH: Tensor, a_BA: Tensor
) -> Tensor:
    """Return this worker's share of the present kernels' summed loss."""
    weights = banks.views(flat_PN, setup.bank.shape)
    code = banks.encode(weights, a_BA, batch.noise_BC, batch.rows)
    return bottleneck_loss(
        banks.decode(weights, setup.model.heads, h_BH, code.z_BC, batch.rows),
        code.rate_B,
        labels_BT=batch.labels_BT,
        mask_BT=torch.ones_like(batch.labels_BT, dtype=torch.bool),
        tasks=_TASKS,
        labelled_PT=batch.rows.lengths[:, None].expand(-1, len(_TASKS)) * setup.worker.world,
        rows_P=batch.rows.lengths * setup.worker.world,
        rows=batch.rows,
        beta=1e-3,
    ).share_P.sum()


def _measure_slice(setup: TableSetup, table: OneTable, *, first_step: int) -> None:
    """Take some steps on one table, each from a common start."""
    took = []
    for step in range(setup.spec.slice_steps + _WARM_UP_STEPS):
        batch = _step_rows(setup, first_step + step)
        dist.barrier()
        started = time.perf_counter()
        looked_up = _tuning_step(setup, batch)
        seconds = time.perf_counter() - started
        if step >= _WARM_UP_STEPS:
            took.append(seconds)
            table.lookup_s.append(looked_up)
    table.step_s += took
    table.slice_p50_s.append(quantile(took, 0.5))


def _measure_lookups(setup: TableSetup, table: OneTable, law: str, *, turn: int) -> None:
    """Measure lookups of single ids, through all workers, and of own rows without an exchange."""
    spec, worker = setup.spec, setup.worker
    draw = torch.Generator().manual_seed(spec.seed + turn * worker.world + worker.rank)
    feature = next(name for name, of_law, _ in _FEATURES if of_law == law)
    ids = _one_feature(feature, drawn(law, spec.lookups, setup.rows, draw))
    dist.barrier()
    started = time.perf_counter()
    setup.tables.sequences(ids)
    _keep(table, f"{law} through all workers", spec.lookups / (time.perf_counter() - started))
    (local,) = setup.tables.local_rows
    own_I = drawn(law, spec.lookups, len(local.bytes_RN), draw).int()
    offsets_O = torch.arange(spec.lookups + 1, dtype=torch.int32)
    dist.barrier()
    started = time.perf_counter()
    local.sums(own_I, offsets_O)
    _keep(table, f"{law} of own rows", spec.lookups / (time.perf_counter() - started))


def _one_feature(feature: str, ids_I: Tensor) -> KeyedJaggedTensor:
    """Return a batch with single ids of one feature, and none of the others."""
    names = [name for name, _, _ in _FEATURES]
    lengths = torch.zeros(len(names), len(ids_I), dtype=torch.int32)
    lengths[names.index(feature)] = 1
    return KeyedJaggedTensor(keys=names, values=ids_I, lengths=lengths.flatten())


def _keep(table: OneTable, name: str, per_s: float) -> None:
    table.lookups_per_s.setdefault(name, []).append(per_s)


def _compare(setup: TableSetup, count: int) -> int:
    """Recompute random rows and compare them with looked-up ones.

    Raises:
        Corrupt: one differs, or has a zero.
    """
    spec, worker = setup.spec, setup.worker
    draw = torch.Generator().manual_seed(spec.seed + worker.rank)
    ids_I = drawn("uniform", count, setup.rows, draw)
    feature = _FEATURES[0][0]
    rows_read = setup.tables.sequences(_one_feature(feature, ids_I))[feature]
    expected = counted.values(ids_I, spec.precision, width=spec.dim)
    wrong_I = ((rows_read != expected) | (expected == 0)).any(dim=1)
    if wrong_I.any():
        row = int(wrong_I.nonzero()[0])
        raise Corrupt(
            f"{int(wrong_I.sum())} of {count:,} rows of a table of {setup.rows:,} are not what was "
            f"written; row {int(ids_I[row])} holds {rows_read[row].tolist()}, expected "
            f"{expected[row].tolist()}"
        )
    return count


def _line(spec: BenchTablesSpec, parts: Sequence[OneTable]) -> SizeLine:
    """Return a table's line: the slowest worker's times, every worker's memory."""
    steps = [max(step) for step in zip(*(part.step_s for part in parts), strict=True)]
    lookups = [max(step) for step in zip(*(part.lookup_s for part in parts), strict=True)]
    slices = [max(step) for step in zip(*(part.slice_p50_s for part in parts), strict=True)]
    per_s = {
        name: round(sum(quantile(part.lookups_per_s[name], 0.5) for part in parts))
        for name in parts[0].lookups_per_s
    }
    return SizeLine(
        rows=parts[0].rows,
        precision=spec.precision,
        dim=spec.dim,
        bytes_per_worker=tuple(part.held_bytes for part in parts),
        rss_bytes_per_worker=tuple(part.rss_bytes for part in parts),
        write_s=round(max(part.write_s for part in parts), 3),
        rows_compared=sum(part.checked for part in parts),
        uniform_through_all_workers_per_s=per_s["uniform through all workers"],
        uniform_of_own_rows_per_s=per_s["uniform of own rows"],
        zipf_through_all_workers_per_s=per_s["zipf through all workers"],
        zipf_of_own_rows_per_s=per_s["zipf of own rows"],
        step_p50_ms=round(1e3 * quantile(steps, 0.5), 3),
        step_p90_ms=round(1e3 * quantile(steps, 0.9), 3),
        lookup_p50_ms=round(1e3 * quantile(lookups, 0.5), 3),
        slice_p50_ms=tuple(round(1e3 * seconds, 3) for seconds in slices),
    )


def _target(lines: Sequence[SizeLine]) -> Target:
    """Compare the largest table's step with the smallest one's."""
    small, large = lines[0], lines[-1]
    note = ""
    if large.ratio > MAX_STEP_RATIO:
        more = large.lookup_p50_ms - small.lookup_p50_ms
        note = (
            f"{more:.1f} of the {large.step_p50_ms - small.step_p50_ms:.1f} ms between them "
            "are lookups: a uniform row of a large table is in no cache, and waits for memory. "
            "Fewer bytes a row (int4), larger batches of prefetched rows, or fewer uniform ids "
            "would change it"
        )
    return Target(
        name=f"step at {large.rows:,} rows against {small.rows:,}",
        wanted=f"at most {MAX_STEP_RATIO}x",
        measured=round(large.ratio, 3),
        is_met=large.ratio <= MAX_STEP_RATIO,
        note=note,
    )


def _notes(spec: BenchTablesSpec, lines: Sequence[SizeLine], free: int | None) -> list[str]:
    """Return the notes that a reader needs to understand the numbers."""
    ids = sum(count for _, _, count in _FEATURES)
    known = "unknown" if free is None else f"{free / 2**30:.1f} GiB"
    return [
        f"{spec.workers} gloo workers of one thread hold all tables at once, row-wise; a slice of "
        f"{spec.slice_steps} steps on one is followed by one on the next, {spec.repeats} times.",
        f"A step has {spec.batch_rows:,} rows of {ids} ids, half uniform over the table, half "
        f"Zipf's (exponent 1, scattered), never the same twice; {len(_FEATURES)} features, trunk "
        f"{_MLP}-{len(_TASKS) * _TASK_UNITS}, {spec.domains_per_step} of {spec.domains} kernels.",
        f"Memory free before: {known}. Resident memory of a worker is that of its process after "
        "the table was written, smaller tables and libraries included.",
        "Drift: the slices' medians stand in the order in which they were measured; the smallest "
        f"table's go from {lines[0].slice_p50_ms[0]} to {lines[0].slice_p50_ms[-1]} ms.",
    ]


def _check_memory(spec: BenchTablesSpec) -> int | None:
    """Return the free bytes of memory, None where the system does not show them.

    Raises:
        DoesNotFit: they are too few.
    """
    free = free_bytes()
    needed = sum(_sizes(spec)) * row_bytes(spec.precision, spec.dim) + _SPARE_BYTES
    if free is not None and free < needed:
        raise DoesNotFit(
            f"tables of {_sizes(spec)} rows need {needed / 2**30:.1f} GiB, "
            f"{_SPARE_BYTES / 2**30:.0f} of it to spare; {free / 2**30:.1f} are free. "
            "Ask for fewer rows, a smaller dim or a lower precision"
        )
    return free


def _resident_bytes() -> int | None:
    """Return the resident bytes of this process; None where the system does not show them."""
    status = Path("/proc/self/status")
    return kib_of(status, "VmRSS") if status.is_file() else None


def _copied_bytes_per_s() -> float:
    """Return this worker's memory bandwidth while the others copy too: bytes read and written."""
    source = torch.ones(1 << 25)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        dist.barrier()
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)
    return 2 * source.numel() * source.element_size() / min(seconds)
