"""Do one worker's part of a tuning run: read rows, compute activations, tune levels of kernels.

Level 0 is the pooled kernel, the last level is the domains. Each kernel starts from the one that
serves now, else from its nearest tuned ancestor. The result is every level's best kernels, with the
rows that a gate needs to judge them.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import pad

from iak.pipeline.activations.buffer import ActivationBuffer, StandardizedBase
from iak.pipeline.activations.cache import ActivationCache, Usage, digest_of, key_of
from iak.pipeline.activations.represent import DTYPES
from iak.pipeline.activations.rows import (
    RowSource,
    SplitRows,
    TuningRows,
    activations_of,
    days_of,
    joined,
    read_side_by_side,
    recomputed,
    seconds_of_rows,
    tuning_rows,
)
from iak.pipeline.activations.standardizer import Standardizer, fit_standardizer
from iak.pipeline.activations.statistics import (
    RowStatistics,
    StatisticsStandard,
    WithStatistics,
    count_past,
    fit_statistics_standard,
)
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.collectives import total
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import Busy, PipelineError
from iak.pipeline.events import BaseOpened, Report, RowsRead
from iak.pipeline.fresh.past import Past
from iak.pipeline.iak import noise
from iak.pipeline.iak.kernel import PROBE, KernelShape
from iak.pipeline.lock import one_writer
from iak.pipeline.model.digest import Digest
from iak.pipeline.process import Worker
from iak.pipeline.progress import RowCounter
from iak.pipeline.tuning.compared import Compared, compare_level
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.pipeline.tuning.gate_rows import PairedRows, collect_gate_rows
from iak.pipeline.tuning.levels import (
    Kernels,
    Names,
    TuningPlan,
    begun_in_order,
    find_domains,
    rivals_of,
    tune_levels,
)
from iak.pipeline.tuning.probe import outside_losses
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.schemas.domain import Domain
from iak.schemas.job import FrozenTablesSpec, KernelSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.table_placement import TablePlacement
from iak.schemas.tuning import CacheUse, OutsideLoss

log = logging.getLogger(__name__)
SPLITS = ("tune", "valid", "gate")
_SAMPLE_ROWS = 16_384
"""Tuning rows over which the encoder's inputs are standardised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationCacheConfig:
    """Settings of the activation cache: its folder, its kind and its budgets."""

    kind: Literal["cache", "memory", "recompute"]
    """Whether activations are stored on disk for later nights, in memory for this run alone, or
    nowhere."""
    precision: Literal["bf16", "fp32"]
    folder: Path
    """Folder of the cache. Activations that do not fit in memory go to its folder `spill`."""
    budget_bytes: int
    """Bytes of the whole cache on disk. Least recently used entries are evicted."""
    memory_bytes: int
    """Activations of one worker above which they go to a file."""
    uri: str | None = None
    """`s3://bucket/prefix` of the entries of all machines; None where this one shares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Kernels that serve now, by domain, and the standardisation they were tuned with."""

    kernels: Mapping[str, Mapping[str, Tensor]]
    standard: Standardizer
    statistics: StatisticsStandard | None = None
    """How they read fresh statistics; None where they read none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneWork:
    """The work of a tuning run, the same for every worker."""

    view: LogView
    """The log as it was when the run began, cut into splits."""
    base: PublishedBase
    kernel: KernelSpec
    pooled: Stage
    domain: Stage
    run_dir: Path
    tables: FrozenTablesSpec
    cache: ActivationCacheConfig
    live: Live | None
    """Kernels that serve now; None in a first night."""
    checkpoint_every_s: float
    """Seconds between two checkpoints."""
    placement: ResolvedPlacement
    compares_chains: bool = False
    """Whether kernels are also compared with those that serve and with their ancestors, as evidence
    over nights (publish/chain.py). Gate rows are then predicted in fp32, as serving does."""
    domains: tuple[str, ...] = ()
    """Names of the only domains that are tuned beside the pooled kernel; all when empty."""
    deadline: datetime | None = None
    """Moment after which no further kernels are begun. Until then they begin in the order of
    `domains`."""
    past: Past | None = None
    """Rows that fresh statistics count; None where the catalogue declares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level's kernels, and their gate rows (on worker 0 alone)."""

    keys: tuple[str, ...]
    """Keys of its domains; none for the pooled kernel."""
    tuned: Tuned
    rows: Mapping[str, int]
    """Name of each kernel -> its tuning rows."""
    gate_rows: Mapping[str, PairedRows]
    """Name of each kernel that has gate rows -> these rows."""
    domains: Mapping[str, Domain]
    """Name of each kernel -> its domain."""
    ancestors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of each kernel -> its domains at the levels above, outermost first."""
    compared: Compared = field(default_factory=Compared)
    """Gate rows against other kernels; nothing where only the base is compared with."""
    outside: Mapping[str, OutsideLoss] = field(default_factory=dict)
    """Name of each kernel -> what it would cost outside its domain, where that can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """The result of a tuning run on one worker."""

    levels: tuple[Level, ...]
    below_floor: Mapping[str, int]
    """Domains with fewer tuning rows than `min_rows`, and how many they have."""
    not_reached: tuple[str, ...] = ()
    """Domains that were not begun before the deadline."""
    standard: Standardizer
    tasks: tuple[str, ...]
    """The catalogue's tasks, in the order of the gate rows' columns."""
    contract: Mapping[str, int]
    """Quarantined rows of all workers, by reason."""
    labels: Mapping[str, int]
    """`known TASK` and `positive TASK` -> tuning rows."""
    digest: str
    """Digest of tables and trunk after tuning."""
    digest_before: str
    """Digest of tables and trunk before tuning. `finetune` raises where it differs from `digest`.
    """
    plan: Sequence[TablePlacement]
    """Where each table is placed."""
    parameters_per_kernel: int
    standard_from: str
    """Where the standardisation comes from: `live kernels`, `the cache`, or `this run's rows`."""
    cache: CacheUse
    """Rows read from the cache and added to it, over all workers."""
    gate_seconds: float = 0.0
    """Seconds in which the gate's rows were predicted in fp32; 0 where only one night is judged."""
    live: frozenset[str] = frozenset()
    """Domains that have a kernel of their own serving."""
    statistics: RowStatistics | None = None
    """Fresh statistics that the kernels read; None where they read none."""


def finetune(work: FinetuneWork, *, worker: Worker, report: Report) -> Finetuned:
    """Tune every level; a collective call.

    Args:
        work: log, base, settings and folders.
        worker: this process.
        report: called with progress events.

    Raises:
        PipelineError: tables or trunk changed, although they are frozen.
        BadLog: a task has no label in the tuning rows, labels of one class, or a domain has two
            parents.
        Diverged: every kernel diverged.
    """
    frozen = FrozenBase.load(work.base, work.tables, work.placement, worker)
    before = frozen.digest()
    report(BaseOpened(before.combined[:16]))
    cache = _open_cache(work)
    contract: Counter[str] = Counter()
    sources = {split: _source(work, split, cache, worker, contract) for split in SPLITS}
    known = _read_rows(sources, worker, report)
    labels = _tuning_labels(known["tune"].known, work.view.catalog, worker)
    names = _names(work, known["tune"], worker)
    base, standard_from = _standardised_base(
        work, frozen.model, known["tune"], sources["tune"], cache, worker
    )
    statistics = _statistics(work, known["tune"], cache, worker)
    rows = _rows_by_split(work, sources, known, base, names.tuned, statistics, worker)
    _report_rows(rows, cache, worker, report)
    context = _context(work, frozen, rows, worker)
    plan_of_levels = _levels(work, base, context, statistics)
    tuned = tune_levels(plan_of_levels, names, context, report)
    start = time.monotonic()
    gate = rows["gate"]
    if work.compares_chains:
        gate = _exact_gate_rows(
            work, sources["gate"], known["gate"], base, names, statistics, worker
        )
    levels = _with_gate_rows(work, names, tuned, context, _reached(gate, tuned), plan_of_levels)
    gate_seconds = time.monotonic() - start if work.compares_chains else 0.0
    usage = _close(work, cache, rows, worker)
    _check_unchanged(before, after := frozen.digest())
    return Finetuned(
        levels=levels,
        below_floor=names.below_floor,
        not_reached=_not_reached(names, tuned),
        standard=base.standard,
        tasks=tuple(task.name for task in context.tasks),
        contract=gathered(contract, worker),
        labels=labels.counts(),
        digest=after.combined,
        digest_before=before.combined,
        plan=frozen.describe_tables(),
        parameters_per_kernel=_parameters(plan_of_levels.shape),
        standard_from=standard_from,
        cache=usage,
        gate_seconds=gate_seconds,
        live=frozenset(work.live.kernels if work.live else ()),
        statistics=statistics,
    )


def _read_rows(
    sources: Mapping[str, RowSource], worker: Worker, report: Report
) -> dict[str, SplitRows]:
    """Return this worker's rows of every split, and report how many are read so far."""
    planned = sum(source.rows for source in sources.values())
    counter = RowCounter(report, "rows read", rank=worker.rank, of=planned)
    rows = read_side_by_side(list(sources.values()), counter.add)
    return dict(zip(sources, rows, strict=True))


def _report_rows(
    rows: Mapping[str, TuningRows], cache: ActivationCache | None, worker: Worker, report: Report
) -> None:
    """Report the rows of all workers, and then those that go through the base; a collective call.

    Rows go through the base when a step first uses them, mostly in the first epoch.
    """
    counts = {split: len(rows[split]) for split in SPLITS} | _from_cache(cache)
    report(RowsRead(gathered(Counter(counts), worker)))
    buffers = [buffer for split in SPLITS if (buffer := _buffer_of(rows[split]))]
    missing = sum(buffer.missing_rows for buffer in buffers)
    counter = RowCounter(report, "rows through the base", rank=worker.rank, of=missing)
    for buffer in buffers:
        buffer.watch(counter.add)


def _buffer_of(rows: TuningRows) -> ActivationBuffer | None:
    """Return the buffer of the rows' activations; None where they are computed at each use."""
    activations = rows.activations
    whole = activations.whole if isinstance(activations, WithStatistics) else activations
    return whole if isinstance(whole, ActivationBuffer) else None


def _context(
    work: FinetuneWork, frozen: FrozenBase, rows: Mapping[str, TuningRows], worker: Worker
) -> TuningContext:
    """Return what all levels are tuned with: rows, towers, tasks and this worker."""
    return TuningContext(
        heads=frozen.heads,
        tasks=published_base.task_shapes(work.view.catalog),
        train=rows["tune"],
        valid=rows["valid"],
        worker=worker,
    )


def _names(work: FinetuneWork, known: SplitRows, worker: Worker) -> Names:
    """Return the domains that are tuned, in the order in which they begin; a collective call."""
    names = find_domains(known.known, work.view.catalog.domain, worker).only(work.domains)
    if work.deadline is None or not work.domains:
        return names
    below = len(names.tuned) - 1
    return begun_in_order(names, work.domains, [work.pooled, *[work.domain] * below])


def _statistics(
    work: FinetuneWork, rows: SplitRows, cache: ActivationCache | None, worker: Worker
) -> RowStatistics | None:
    """Count the past, and standardise its statistics as live kernels do; a collective call."""
    if work.past is None:
        return None
    catalog = work.view.catalog.counting("kernel")
    state = count_past(work.past, catalog, cache, worker)
    standard = work.live.statistics if work.live else None
    if standard is None:
        standard = fit_statistics_standard(rows.known, state, catalog, worker)
    return RowStatistics(state=state, catalog=catalog, standard=standard)


def _beside(rows: TuningRows, known: SplitRows, statistics: RowStatistics | None) -> TuningRows:
    """Return rows of a split with their statistics, where kernels read any."""
    if statistics is None:
        return rows
    return replace(rows, activations=statistics.beside(rows.activations, known.known))


def _open_cache(work: FinetuneWork) -> ActivationCache | None:
    """Return the activation cache, None where nothing is stored on disk."""
    if work.cache.kind != "cache":
        return None
    # A run that is resumed on another machine has another folder there, but the same name.
    run = work.run_dir.name if work.cache.uri else str(work.run_dir)
    return ActivationCache(work.cache.folder, run=run, uri=work.cache.uri)


def _tuning_labels(rows: pa.Table, catalog: Catalog, worker: Worker) -> LabelCounts:
    """Count the labels of all workers' tuning rows; a collective call.

    Raises:
        BadLog: a task has no label in these rows, or labels of one class.
    """
    labels = LabelCounts(catalog)
    labels.add_encoded(rows)
    labels.update(gathered(Counter(labels.counts()), worker))
    labels.refuse_untrainable("tune")
    return labels


def _exact_gate_rows(
    work: FinetuneWork,
    source: RowSource,
    known: SplitRows,
    base: StandardizedBase,
    names: Names,
    statistics: RowStatistics | None,
    worker: Worker,
) -> TuningRows:
    """Return the rows of the gate slice as serving reads them.

    Evidence over nights is of kernels as they serve. So these rows do not come from the cache,
    which rounds activations to bf16. They go through the base again, as in `iak evaluate`.

    Args:
        work: work of the run, the same for every worker.
        source: reads the split.
        known: its rows without activations.
        base: computes activations.
        names: domain names of each level.
        statistics: what kernels read beside activations; None where they read none.
        worker: this process.
    """
    exact = replace(base, dtype=torch.float32)
    is_large = len(known) * base.width * 4 > work.cache.memory_bytes
    activations = activations_of(
        known,
        replace(source, cache=None),
        exact,
        scope="",  # nothing of it is stored
        dtype=torch.float32,
        spill=work.cache.folder / "spill" if is_large else None,
        worker=worker,
    )
    rows = tuning_rows(known.known, activations, work.view.catalog, names.tuned)
    return replace(
        _beside(rows, known, statistics),
        day_n=days_of(known, source.reader),
        second_n=seconds_of_rows(known, source.reader),
    )


def _with_gate_rows(
    work: FinetuneWork,
    names: Names,
    tuned: Sequence[Tuned],
    context: TuningContext,
    gate: TuningRows,
    plan: TuningPlan,
) -> tuple[Level, ...]:
    """Return every level with its gate rows; a collective call."""
    levels = []
    for depth, done in enumerate(tuned):
        compared = Compared()
        if work.compares_chains:
            rivals = rivals_of(plan, depth, names, tuned[: depth + 1])
            compared = compare_level(done.bank, rivals, depth, context, gate)
        levels.append(
            Level(
                keys=work.view.catalog.domain.levels[depth],
                tuned=done,
                rows={n: names.rows[depth][n] for n in done.bank.names},
                gate_rows=collect_gate_rows(done.bank, depth, context, gate),
                domains={n: names.domains[n] for n in done.bank.names},
                ancestors={n: names.ancestors[n] for n in done.bank.names},
                compared=compared,
                outside=outside_losses(done.bank, depth, context, gate) if depth else {},
            )
        )
    return tuple(levels)


def _reached(rows: TuningRows, tuned: Sequence[Tuned]) -> TuningRows:
    """Return the rows, without a slot for rows of kernels that were not begun."""
    kernels_L = torch.tensor([done.kernels for done in tuned])
    slots_nL = torch.where(rows.slots_nL < kernels_L, rows.slots_nL, -1)
    return replace(rows, slots_nL=slots_nL)


def _not_reached(names: Names, tuned: Sequence[Tuned]) -> tuple[str, ...]:
    """Return the names of kernels that were not begun before the deadline."""
    levels = zip(names.tuned, tuned, strict=True)
    return tuple(name for level, done in levels for name in level[done.kernels :])


def _source(
    work: FinetuneWork,
    split: str,
    cache: ActivationCache | None,
    worker: Worker,
    contract: Counter[str],
) -> RowSource:
    """Return the source of this worker's rows of a split."""
    reader = Reader(
        selection=work.view.selections[split],
        catalog=work.view.catalog,
        encoding=work.base.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=work.view.as_of,
    )
    return RowSource(
        reader=reader, cache=cache, contract=contract, schema_hash=work.base.manifest.schema_hash
    )


def _standardised_base(
    work: FinetuneWork,
    model: nn.Module,
    rows: SplitRows,
    source: RowSource,
    cache: ActivationCache | None,
    worker: Worker,
) -> tuple[StandardizedBase, str]:
    """Return the base with its standardisation: the live kernels', the cache's, or a new one.

    A kernel needs the standardisation with which it was tuned, so the live kernels' comes first.
    The cache's comes next, since activations are stored under it.

    Returns:
        The base, and where its standardisation comes from.
    """
    reads_x = work.kernel.reads == "hx"
    key = standard_key(work.base.cache_key, work.tables, work.kernel)
    stored = _stored_standard(cache, key, worker) if work.live is None else None
    if work.live is not None:
        standard, origin = work.live.standard, "live kernels"
    elif stored is not None:
        standard, origin = Standardizer.from_tensors(stored, reads_x=reads_x), "the cache"
    else:
        origin = "this run's rows"
        sample = _sample(rows, source, worker)
        standard = fit_standardizer(
            model,
            sample,
            work.view.catalog,
            reads_x=reads_x,
            narrow=work.kernel.narrow,
            worker=worker,
        )
        if cache and worker.rank == 0:
            cache.write_standard(key, standard.tensors())
    base = StandardizedBase(
        model=model,
        catalog=work.view.catalog,
        standard=standard.to(worker.device),
        device=worker.device,
        dtype=DTYPES[work.kernel.precision],
        products=DTYPES[work.tables.products],
    )
    return base, origin


def _stored_standard(
    cache: ActivationCache | None, key: str, worker: Worker
) -> dict[str, Tensor] | None:
    """Return the standardisation that worker 0 reads from the cache, so that all have the same."""
    tensors = [cache.read_standard(key) if cache is not None and worker.rank == 0 else None]
    if worker.world > 1:
        dist.broadcast_object_list(tensors, src=0)
    return tensors[0]


def _sample(rows: SplitRows, source: RowSource, worker: Worker) -> pa.Table:
    """Return the features of a random part of this worker's rows.

    A row is drawn by its key, so that the sample does not depend on the number of workers.
    """
    count = total(torch.tensor(len(rows)), worker)
    keys = torch.from_numpy(rows.known.column("row").to_numpy().copy())
    chosen_n = noise.uniform(keys, 1).squeeze(1) < _SAMPLE_ROWS / count.clamp(min=1)
    parts = [
        source.features_of(piece).filter(
            pa.array(chosen_n[piece.first : piece.first + piece.piece.rows].numpy())
        )
        for piece in rows.pieces
    ]
    return joined(parts, source.reader.catalog)


def _parts_of_base(base: str, tables: FrozenTablesSpec, kernel: KernelSpec) -> dict[str, object]:
    """Return everything that activations depend on besides rows and standardisation."""
    stored = tables.model_dump(include={"precision", "precisions", "products"})
    return {"base": base, "tables": stored, **kernel.model_dump(include={"reads", "narrow"})}


def standard_key(base: str, tables: FrozenTablesSpec, kernel: KernelSpec) -> str:
    """Return the cache's key of the standardisation.

    Args:
        base: `PublishedBase.cache_key` of the base.
        tables: precision of its tables, and the type of the trunk's products.
        kernel: settings of kernels, of which the inputs count.
    """
    return key_of(what="standard", **_parts_of_base(base, tables, kernel))


def activations_scope(
    base: str,
    tables: FrozenTablesSpec,
    kernel: KernelSpec,
    standard: Standardizer,
    precision: str,
) -> str:
    """Return the cache's scope of activations: a digest of what they depend on besides rows.

    Args:
        base: `PublishedBase.cache_key` of the base.
        tables: precision of its tables, and the type of the trunk's products.
        kernel: settings of kernels, of which the inputs count.
        standard: standardisation under which they are stored.
        precision: type in which they are stored.
    """
    key = key_of(
        what="activations",
        **_parts_of_base(base, tables, kernel),
        standard=digest_of(*standard.tensors().values()),
        precision=precision,
    )
    return key[:16]


def _rows_by_split(
    work: FinetuneWork,
    sources: Mapping[str, RowSource],
    known: Mapping[str, SplitRows],
    base: StandardizedBase,
    names: Sequence[Sequence[str]],
    statistics: RowStatistics | None,
    worker: Worker,
) -> dict[str, TuningRows]:
    """Return every split's rows. Where all splits do not fit in memory, activations go to files."""
    row_bytes = base.width * DTYPES[work.cache.precision].itemsize
    is_large = sum(map(len, known.values())) * row_bytes > work.cache.memory_bytes
    rows = {
        split: _tuning_rows(
            work, sources[split], known[split], base, names, worker, is_large=is_large
        )
        for split in SPLITS
    }
    return {split: _beside(rows[split], known[split], statistics) for split in SPLITS}


def _tuning_rows(
    work: FinetuneWork,
    source: RowSource,
    known: SplitRows,
    base: StandardizedBase,
    names: Sequence[Sequence[str]],
    worker: Worker,
    *,
    is_large: bool,
) -> TuningRows:
    """Return a split's rows with their labels, slots and activations.

    Args:
        work: work of the run, the same for every worker.
        source: source of the split's rows.
        known: its rows without activations.
        base: computes activations.
        names: kernels of each level, in slot order.
        worker: this process.
        is_large: whether activations do not fit in memory and go to a file.
    """
    config, dtype = work.cache, DTYPES[work.cache.precision]
    if config.kind == "recompute":
        rows = recomputed(known, source, base, dtype)
        return tuning_rows(known.known, rows, work.view.catalog, names)
    activations = activations_of(
        known,
        source,
        base,
        scope=activations_scope(
            work.base.cache_key,
            work.tables,
            work.kernel,
            base.standard,
            config.precision,
        ),
        dtype=dtype,
        spill=config.folder / "spill" if is_large else None,
        worker=worker,
    )
    return tuning_rows(known.known, activations, work.view.catalog, names)


def _close(
    work: FinetuneWork,
    cache: ActivationCache | None,
    rows: Mapping[str, TuningRows],
    worker: Worker,
) -> CacheUse:
    """Finish writing the cache, keep it to its budget, and return its use in this run.

    A collective call. Rows that no step used are computed now, for the nights that follow.
    """
    if cache is None:
        return CacheUse()
    for split in SPLITS:
        buffer = _buffer_of(rows[split])
        assert buffer is not None, "with a cache, activations lie in buffers"
        buffer.complete()
    cache.close()
    if worker.is_first_here:
        keep_to_budget(cache, work.cache.budget_bytes)
    parts: list[Usage] = [cache.usage] * worker.world
    if worker.world > 1:
        dist.all_gather_object(parts, cache.usage)
    numbers: Counter[str] = Counter()
    for part in parts:
        numbers.update({k: v for k, v in asdict(part).items() if isinstance(v, int)})
    stopped = next((part.stopped for part in parts if part.stopped), "")
    return CacheUse(folder=str(work.cache.folder), **numbers, stopped=stopped)


def keep_to_budget(cache: ActivationCache, budget_bytes: int) -> None:
    """Evict entries beyond the budget, unless another run does so now or this user may not."""
    try:
        with one_writer(cache.folder, waits=False):
            cache.evict(budget_bytes)
    except (Busy, OSError) as error:
        log.info("the activation cache is not kept to its budget now: %s", error)


def _from_cache(cache: ActivationCache | None) -> dict[str, int]:
    return {"from_cache": cache.usage.rows_read} if cache else {}


def _levels(
    work: FinetuneWork,
    base: StandardizedBase,
    context: TuningContext,
    statistics: RowStatistics | None,
) -> TuningPlan:
    width = len(statistics.standard.mean_S) if statistics else 0
    shape = KernelShape.on(context.heads, work.kernel, inputs=base.width + width)
    return TuningPlan(
        shape=shape,
        pooled=work.pooled,
        domain=work.domain,
        live=_widened(work.live, width) if work.live else {},
        origins=work.view.catalog.domain.origins,
        run_dir=work.run_dir,
        snapshot=work.view.snapshot.fingerprint,
        checkpoint_every_s=work.checkpoint_every_s,
        deadline=work.deadline,
    )


def _widened(live: Live, width: int) -> Kernels:
    """Return live kernels as kernels that read statistics.

    A kernel that was tuned before the catalogue had statistics gives them a weight of zero. So it
    predicts what it predicted.

    Args:
        live: the kernels.
        width: statistics that tonight's kernels read.
    """
    if live.statistics is not None or not width:
        return live.kernels
    return {
        name: {n: pad(w, (0, width)) if n == "encode_w" else w for n, w in kernel.items()}
        for name, kernel in live.kernels.items()
    }


def _parameters(shape: KernelShape) -> int:
    """Return the weights of a kernel, without the probe that no bundle has."""
    return sum(math.prod(size) for name, size in shape.sizes().items() if name not in PROBE)


def _check_unchanged(before: Digest, after: Digest) -> None:
    if after != before:
        raise PipelineError(
            f"tables or trunk changed while kernels were tuned: digest {before.combined} before, "
            f"{after.combined} after. Nothing is published"
        )


def gathered(counts: Counter[str], worker: Worker) -> Counter[str]:
    """Return the sums of all workers' counts; a collective call."""
    parts: list[dict[str, int]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(parts, dict(counts))
    joined: Counter[str] = Counter()
    for part in parts:
        joined.update(part)
    return joined
