"""Tune the levels of a run, from the pooled kernel down to the domains.

A domain's kernel starts from the one that serves it now or from its nearest tuned ancestor,
whichever validates better. A new domain that inherits, as after a split, starts from the other
domain's kernel instead. The pooled kernel starts from the one that serves now; where none does yet,
it starts fresh.

A kernel that diverges is set back to its start. Kernels below it start from that.

A level is resumed where its checkpoint left it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import distributed as dist

from iak.pipeline.collectives import most
from iak.pipeline.errors import BadLog, BadRequest, Diverged
from iak.pipeline.events import Report
from iak.pipeline.iak.bank import Bank, repeated, stack
from iak.pipeline.iak.kernel import PROBE, KernelShape, Weights, fresh
from iak.pipeline.process import Worker
from iak.pipeline.tuning.borrow import borrow
from iak.pipeline.tuning.checkpoint import Saved, TuningCheckpoint
from iak.pipeline.tuning.cohorts import cohorts_of, tune_level
from iak.pipeline.tuning.context import Stage, TuningContext
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.schemas.domain import POOLED, Domain
from iak.schemas.task import DomainSpec

Kernels = Mapping[str, Weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPlan:
    """Settings and starts of all levels."""

    shape: KernelShape
    pooled: Stage
    """Settings of the pooled kernel, level 0."""
    domain: Stage
    """Settings of every level below it."""
    live: Kernels
    """Kernels that serve now, by domain; empty in a first night."""
    run_dir: Path
    """Folder of the checkpoint."""
    snapshot: str
    """Fingerprint of the log; a checkpoint of another one is refused."""
    checkpoint_every_s: float
    """Seconds between two checkpoints."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Domain -> the one whose kernel it starts from, where it has none of its own."""
    deadline: datetime | None = None
    """Moment after which no cohort below the pooled level begins; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The domains of every level, over all workers, in one order."""

    tuned: tuple[tuple[str, ...], ...]
    """By level, the domains that have enough rows, those with most first: the slots of its bank."""
    rows: tuple[Mapping[str, int], ...]
    """By level, the tuning rows of every domain."""
    ancestors: Mapping[str, tuple[str, ...]]
    """Domain of a level below the pooled one -> its names at the levels above, outermost first."""
    below_floor: Mapping[str, int]
    """Domains of the last level with fewer rows than `min_rows`, and how many they have."""
    domains: Mapping[str, Domain]
    """Name -> its domain, at any level."""
    untouched: frozenset[str] = frozenset()
    """Domains that have enough rows, but are not tuned in this run."""
    cohorts: tuple[tuple[slice, ...], ...] = ()
    """By level, the slots that are tuned together, in the order of `begun_in_order`. Where it is
    empty, `cohorts_of` cuts the slots into cohorts, those with most rows first."""

    def only(self, wanted: Collection[str]) -> "Names":
        """Return the same domains, of which only some are tuned; all where none is named.

        The pooled kernel is always tuned, since other kernels may need it as their start.
        """
        if not wanted:
            return self
        kept = {*wanted, POOLED}
        tuned = tuple(tuple(name for name in level if name in kept) for level in self.tuned)
        left = {name for level in self.tuned for name in level} - kept
        return replace(self, tuned=tuned, untouched=frozenset(left))


def begun_in_order(names: Names, order: Sequence[str], stages: Sequence[Stage]) -> Names:
    """Return the same domains, whose cohorts begin in the order in which their domains are named.

    So a run that a deadline ends has tuned the domains that are named first. The cohorts contain
    the same domains as without an order, so that every tuned kernel has the same bits. A cohort of
    several domains begins when the first of them is due.

    Args:
        names: domain names of each level, those with most rows first.
        order: names, the most urgent first; those that are not named come last.
        stages: settings of each level.
    """
    turn = {name: number for number, name in enumerate(order)}
    tuned, cohorts = [], []
    for level, rows, stage in zip(names.tuned, names.rows, stages, strict=True):
        parts = [level[part] for part in cohorts_of([rows[name] for name in level], stage)]
        parts.sort(key=lambda part: min(turn.get(name, len(turn)) for name in part))
        ends = list(accumulate((len(part) for part in parts), initial=0))
        tuned.append(tuple(name for part in parts for name in part))
        cohorts.append(tuple(slice(start, end) for start, end in pairwise(ends)))
    return replace(names, tuned=tuple(tuned), cohorts=tuple(cohorts))


def find_domains(rows: pa.Table, domain: DomainSpec, worker: Worker) -> Names:
    """Count domains over all workers and decide which are tuned; a collective call.

    Args:
        rows: this worker's tuning rows, with the names (`l.LEVEL`) and keys (`k.KEY`) of their
            domains.
        domain: levels, keys, and the rows that a domain needs to be tuned.
        worker: this process.

    Raises:
        BadLog: a domain has two parents.
    """
    counts: list[Counter[str]] = [Counter() for _ in domain.levels]
    ancestors: dict[str, tuple[str, ...]] = {}
    domains: dict[str, Domain] = {}
    for line in _gather_counts(rows, domain, worker):
        path = [line[f"l.{level}"] for level in range(len(counts))]
        if None in path:  # a row without one of the keys belongs to no domain
            continue
        for level, name in enumerate(path):
            counts[level][name] += line["count_all"]
            domains[name] = Domain(tuple((k, line[f"k.{k}"]) for k in domain.levels[level]))
            above = tuple(path[:level])
            if ancestors.setdefault(name, above) != above:
                raise BadLog(
                    f"domain {name} has two parents, {ancestors[name][-1]} and {above[-1]}; a "
                    "domain needs one. Choose domain.parent so that it follows from domain.keys"
                )
    floors = [1, *[domain.min_rows] * (len(counts) - 1)]
    return Names(
        tuned=tuple(
            _names_to_tune(count, floor) for count, floor in zip(counts, floors, strict=True)
        ),
        rows=tuple(counts),
        ancestors=ancestors,
        below_floor={n: c for n, c in counts[-1].items() if c < domain.min_rows},
        domains=domains,
    )


def _gather_counts(rows: pa.Table, domain: DomainSpec, worker: Worker) -> list[dict[str, Any]]:
    """Return the rows that each worker has of each domain, of all workers; a collective call."""
    columns = [f"l.{level}" for level in range(len(domain.levels))]
    columns += [f"k.{key}" for key in domain.all_keys]
    own = rows.group_by(columns).aggregate([([], "count_all")])
    parts: list[list[dict[str, Any]]] = [[] for _ in range(worker.world)]
    dist.all_gather_object(parts, own.to_pylist())
    return [line for part in parts for line in part]


def _names_to_tune(count: Mapping[str, int], floor: int) -> tuple[str, ...]:
    """Return the domains of a level with rows enough, those with most rows first."""
    thick = (name for name, rows in count.items() if rows >= floor)
    # Ties by name: every worker must give a domain the same slot.
    return tuple(sorted(thick, key=lambda name: (-count[name], name)))


def tune_levels(
    plan: TuningPlan, names: Names, context: TuningContext, report: Report
) -> list[Tuned]:
    """Tune every level, from the pooled kernel down; a collective call.

    A run that was interrupted goes on from its checkpoint.

    Args:
        plan: settings and starts of all levels.
        names: domain names of each level.
        context: rows, towers, tasks and this worker.
        report: called with progress events.

    Returns:
        The levels, in their order.

    Raises:
        BadLog: the log changed since the checkpoint was written.
        BadRequest: a kernel that serves has another shape.
        Diverged: every kernel diverged.
    """
    checkpoint = TuningCheckpoint(
        plan.run_dir,
        snapshot=plan.snapshot,
        every_s=plan.checkpoint_every_s,
        worker=context.worker,
        report=report,
    )
    saved = checkpoint.load()
    tuned: list[Tuned] = []
    for depth, slots in enumerate(names.tuned):
        inherited = _inherited(plan, depth, slots, names, tuned).to(context.worker.device)
        live = _with_kernels(inherited, _first_kernels(plan, slots))
        start = inherited if live is None else live
        before = _of_slots(saved.get(depth), slots, is_ordered=bool(names.cohorts))
        done = _restored(start, before) if before else Tuned.nothing(start)
        if before is not None and before.is_finished:
            tuned.append(done.reached())
            continue
        tune_level(
            start,
            level=depth,
            stage=_stage(plan, depth, slots),
            context=context,
            report=report,
            save=lambda level, tuner: checkpoint.save(tuned, level, tuner),
            rival=inherited if depth and live is not None else None,
            tuned=done,  # `tune_level` adds to it
            current=before.tuner if before else None,
            may_begin=partial(_may_begin, plan, depth, context.worker),
            cohorts=names.cohorts[depth] if names.cohorts else (),
        )
        reached = done.reached()
        if depth and plan.domain.borrows:
            _borrow(plan, depth, reached, inherited, context)
        tuned.append(reached)
        checkpoint.save(tuned, is_due=True)
    _refuse_all_failed(tuned)
    return tuned


def _borrow(
    plan: TuningPlan, depth: int, reached: Tuned, inherited: Bank, context: TuningContext
) -> None:
    """Let new kernels borrow from their parents; a collective call.

    Args:
        plan: settings and starts of all levels.
        depth: number of the level.
        reached: the level's kernels, which are changed.
        inherited: the nearest tuned ancestors of all its slots.
        context: rows, towers, tasks and this worker.
    """
    earlier = _first_kernels(plan, reached.bank.names)
    is_fresh_K = torch.tensor([name not in earlier for name in reached.bank.names])
    parents = inherited.part(slice(0, reached.kernels))
    borrow(reached, parents, is_fresh_K, depth, _of_reached(context, depth, reached))


def _of_reached(context: TuningContext, depth: int, reached: Tuned) -> TuningContext:
    """Return the context without validation rows of kernels that were not begun."""
    slots_nL = context.valid.slots_nL.clone()
    slots_nL[slots_nL[:, depth] >= reached.kernels, depth] = -1
    return replace(context, valid=replace(context.valid, slots_nL=slots_nL))


def _of_slots(saved: Saved | None, slots: Sequence[str], *, is_ordered: bool) -> Saved | None:
    """Return a level of the checkpoint where its kernels are those of the first slots, else None.

    A checkpoint of an earlier version does not name its kernels. They are those with most rows. So
    it is taken only where this run begins with these too. Otherwise kernels would get other
    domains.
    """
    if saved is None or (saved.names is None and not is_ordered):
        return saved
    return saved if saved.names == tuple(slots[: len(saved.flat_KN)]) else None


def _refuse_all_failed(tuned: Sequence[Tuned]) -> None:
    """Raise an error where no kernel is left that could be published."""
    failed = [sentence for level in tuned for sentence in level.failed.values()]
    if failed and len(failed) == sum(level.kernels for level in tuned):
        raise Diverged(
            f"all {len(failed)} kernels diverged, and nothing is published. First {failed[0]}. "
            "Lower pooled.lr and domain.lr by a factor of ten, in another run_dir. Where that does "
            "not help, look for extreme numbers in the log: iak check"
        )


def _may_begin(plan: TuningPlan, depth: int, worker: Worker) -> bool:
    """Return whether a cohort may begin; a collective call, since clocks differ.

    The pooled kernel always does: without it no other kernel has a start.
    """
    if plan.deadline is None or depth == 0:
        return True
    return not most(int(datetime.now(UTC) >= plan.deadline), worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """What a level's kernels are compared with besides the base, in banks of the level's slots."""

    tuned_above: Bank | None
    """Nearest tuned ancestors; None for the pooled level, which has none."""
    serving_above: Bank | None
    """What serves each domain now without a kernel of its own; None where that is the base for all.
    A fresh kernel, which changes no logit, stands for the base."""
    live: Bank | None
    """Kernels that serve now, in the slots of `live_names`; None where none does."""
    live_names: frozenset[str]
    """Domains of the level that have a kernel of their own serving."""


def rivals_of(plan: TuningPlan, depth: int, names: Names, tuned: Sequence[Tuned]) -> Rivals:
    """Return what a tuned level is compared with.

    Args:
        plan: settings and starts of all levels.
        depth: number of the level.
        names: domain names of each level.
        tuned: the levels down to this one. Kernels that were not begun are not compared.
    """
    *above, level = tuned
    slots = level.bank.names
    inherited = _inherited(plan, depth, slots, names, above)
    serving = {name: _serving_above(plan, name, names) for name in slots}
    unchanged = fresh(plan.shape, seed=plan.pooled.seed)
    is_base = not any(serving.values())
    return Rivals(
        tuned_above=inherited if depth else None,
        serving_above=None
        if is_base
        else stack(
            plan.shape,
            {n: _live(plan, a) if a is not None else unchanged for n, a in serving.items()},
        ),
        live=_with_kernels(inherited, {n: _live(plan, n) for n in slots if n in plan.live}),
        live_names=frozenset(slots) & plan.live.keys(),
    )


def _serving_above(plan: TuningPlan, name: str, names: Names) -> str | None:
    """Return the nearest ancestor whose kernel serves now; None where the base does."""
    above = reversed(names.ancestors.get(name, ()))
    return next((ancestor for ancestor in above if ancestor in plan.live), None)


def _stage(plan: TuningPlan, depth: int, slots: Sequence[str]) -> Stage:
    """Return the settings of a level, which depend on whether any of its kernels serves already."""
    stage = plan.domain if depth else plan.pooled
    return replace(stage, starts_live=any(_origin(plan, name) in plan.live for name in slots))


def _inherited(
    plan: TuningPlan, depth: int, slots: Sequence[str], names: Names, above: Sequence[Tuned]
) -> Bank:
    """Return a level's kernels as copies of their nearest tuned ancestors; the pooled one is fresh.

    Args:
        plan: settings and starts of all levels.
        depth: number of the level, 0 for the pooled kernel.
        slots: names of the level's kernels.
        names: their ancestors.
        above: the levels above, tuned.
    """
    if depth == 0:
        return stack(plan.shape, {name: fresh(plan.shape, seed=plan.pooled.seed) for name in slots})
    ancestors: dict[str, Weights] = {}
    kernels: dict[str, Weights] = {}
    for name in slots:
        ancestor, level = _ancestor(name, plan, names, above)
        if ancestor not in ancestors:
            ancestors[ancestor] = (
                level.bank.slot(level.bank.names.index(ancestor))
                if ancestor in level.bank.names
                else _live(plan, ancestor)
            )
        kernels[name] = ancestors[ancestor]
    if len(ancestors) == 1:  # one copy in memory for all: there may be many thousand domains
        return repeated(plan.shape, next(iter(ancestors.values())), slots)
    return stack(plan.shape, kernels)


def _origin(plan: TuningPlan, name: str) -> str:
    """Return the domain whose kernel a domain starts from: itself, unless it inherits."""
    return name if name in plan.live else plan.origins.get(name, name)


def _first_kernels(plan: TuningPlan, slots: Sequence[str]) -> dict[str, Weights]:
    """Return the kernels of earlier nights that a level's domains start from.

    Each has its own, where that serves, or the one that it inherits.
    """
    origins = {name: _origin(plan, name) for name in slots}
    return {name: _live(plan, origin) for name, origin in origins.items() if origin in plan.live}


def _with_kernels(bank: Bank, kernels: Mapping[str, Weights]) -> Bank | None:
    """Return a copy of a bank in which some domains have other kernels; None without any."""
    if not kernels:
        return None
    changed = bank.clone()
    for name, stacked in changed.weights.items():
        for slot, domain in enumerate(bank.names):
            if domain in kernels:
                stacked[slot] = kernels[domain][name]
    return changed


def _ancestor(
    name: str, plan: TuningPlan, names: Names, above: Sequence[Tuned]
) -> tuple[str, Tuned]:
    """Return the nearest ancestor that has a kernel, and its level.

    That kernel is tuned in this run, or it serves and is not tuned in this run. The pooled kernel
    is always tuned.
    """
    for ancestor, level in reversed(list(zip(names.ancestors[name], above, strict=True))):
        is_left = ancestor in names.untouched and ancestor in plan.live
        if ancestor in level.bank.names or is_left:
            return ancestor, level
    raise AssertionError(f"{name} has no tuned ancestor, not even {POOLED}")


def _live(plan: TuningPlan, name: str) -> Weights:
    """Return a serving kernel's weights, with a new probe: bundles have none.

    Raises:
        BadRequest: the kernel has another shape than `kernel.*` asks for.
    """
    kernel = dict(plan.live[name])
    sizes = plan.shape.sizes()
    kernel |= {probe: torch.zeros(sizes[probe]) for probe in PROBE}
    differing = [n for n, size in sizes.items() if n not in kernel or kernel[n].shape != size]
    if differing:
        raise BadRequest(
            f"the live kernel of {name} differs in {differing} from what kernel.* asks for; "
            "keep those settings, or start without live="
        )
    return kernel


def _restored(start: Bank, saved: Saved) -> Tuned:
    """Return a level from the checkpoint, in a bank as large as `start`."""
    tuned = Tuned.of(start.like(), saved.numbers)
    tuned.bank.flat_KN[: tuned.kernels] = saved.flat_KN.to(start.flat_KN.device)
    return tuned
