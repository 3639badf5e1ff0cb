"""Do one worker's part of a tuning run: read rows, compute activations, tune levels of kernels.

Level 0 is the pooled kernel, the last level is the domains. Each kernel starts from the one that
serves now, else from its nearest tuned ancestor. The result is every level's best kernels, with the
rows that a gate needs to judge them.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import torch
from torch.nn.functional import pad

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.base import published_base
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.collectives import total_counts
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import BaseOpened, Report
from iak.pipeline.iak.kernel import PROBE, KernelShape
from iak.pipeline.model.digest import Digest
from iak.pipeline.process import Worker
from iak.pipeline.tuning.compared import Compared, compare_level
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.gate_rows import collect_gate_rows
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
from iak.pipeline.tuning.run_rows import InputSource, RunRows
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.pipeline.tuning.work import Finetuned, FinetuneWork, Level, Live
from iak.schemas.log import Catalog


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
    run = RunRows.read(work, worker, report)
    tuning = run.known["tune"].known
    labels = _tuning_labels(tuning, work.view.catalog, worker)
    names = _names(work, tuning, worker)
    inputs = run.inputs(frozen.model)
    rows = run.with_inputs(inputs, names.tuned)
    run.report(rows, report)
    context = _context(work, frozen, rows, worker)
    plan = _plan(work, context, inputs)
    tuned = tune_levels(plan, names, context, report)
    start = time.monotonic()
    gate = run.exact_gate_rows(inputs, names.tuned) if work.compares_chains else rows["gate"]
    levels = _with_gate_rows(work, names, tuned, context, _reached(gate, tuned), plan)
    gate_seconds = time.monotonic() - start if work.compares_chains else 0.0
    usage = run.close(rows)
    _check_unchanged(before, after := frozen.digest())
    return Finetuned(
        levels=levels,
        below_floor=names.below_floor,
        not_reached=_not_reached(names, tuned),
        standard=inputs.base.standard,
        tasks=tuple(task.name for task in context.tasks),
        contract=total_counts(run.contract, worker),
        labels=labels.counts(),
        digest=after.combined,
        digest_before=before.combined,
        plan=frozen.describe_tables(),
        parameters_per_kernel=_parameters(plan.shape),
        standard_from=inputs.standard_from,
        cache=usage,
        gate_seconds=gate_seconds,
        live=frozenset(work.live.kernels if work.live else ()),
        statistics=inputs.statistics,
    )


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


def _names(work: FinetuneWork, rows: pa.Table, worker: Worker) -> Names:
    """Return the domains that are tuned, in the order in which they begin; a collective call."""
    names = find_domains(rows, work.view.catalog.domain, worker).only(work.domains)
    if work.deadline is None or not work.domains:
        return names
    below = len(names.tuned) - 1
    return begun_in_order(names, work.domains, [work.pooled, *[work.domain] * below])


def _tuning_labels(rows: pa.Table, catalog: Catalog, worker: Worker) -> LabelCounts:
    """Count the labels of all workers' tuning rows; a collective call.

    Raises:
        BadLog: a task has no label in these rows, or labels of one class.
    """
    labels = LabelCounts(catalog)
    labels.add_encoded(rows)
    labels.update(total_counts(labels.counts(), worker))
    labels.refuse_untrainable("tune")
    return labels


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


def _plan(work: FinetuneWork, context: TuningContext, inputs: InputSource) -> TuningPlan:
    """Return the settings and starts of all levels."""
    width = inputs.statistics_width
    shape = KernelShape.on(context.heads, work.kernel, inputs=inputs.base.width + width)
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
