"""The levels of a tuning run, from the pooled kernel down to the domains.

A domain's kernel starts from the one that serves it now or from its nearest tuned ancestor,
whichever validates better; the pooled one from what serves, and fresh where nothing does yet.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import distributed as dist

from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.iak.bank import Bank, repeated, stack
from iak.pipeline.iak.kernel import PROBE, KernelShape, Weights, fresh
from iak.pipeline.process import Worker
from iak.pipeline.tuning.checkpoint import Saved, TuningCheckpoint
from iak.pipeline.tuning.cohorts import tune_level
from iak.pipeline.tuning.tune import Setting, Stage, Tuned
from iak.schemas.domain import POOLED, Domain
from iak.schemas.task import DomainSpec

Report = Callable[[Mapping[str, Any]], None]
Kernels = Mapping[str, Weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How all levels are tuned."""

    shape: KernelShape
    pooled: Stage
    domain: Stage
    live: Kernels
    """The kernels that serve now, by domain; empty in a first night."""
    run_dir: Path
    snapshot: str
    """Fingerprint of the log; a checkpoint of another one is refused."""
    checkpoint_every_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The domains of every level, over all workers, in one order."""

    tuned: tuple[tuple[str, ...], ...]
    """By level, the domains with rows enough."""
    rows: tuple[Mapping[str, int], ...]
    """By level, tuning rows of every domain."""
    ancestors: Mapping[str, tuple[str, ...]]
    """Domain of a level below the pooled one -> its names at the levels above, outermost first."""
    below_floor: Mapping[str, int]
    domains: Mapping[str, Domain]
    """Name -> the domain it is the name of, at any level."""


def find_domains(rows: pa.Table, domain: DomainSpec, worker: Worker) -> Names:
    """Count domains over all workers and decide which are tuned, those with most rows first.

    Raises:
        BadLog: a domain has two parents.
    """
    depth = len(domain.levels)
    columns = [f"l.{level}" for level in range(depth)] + [f"k.{key}" for key in domain.all_keys]
    own = rows.group_by(columns).aggregate([([], "count_all")])
    parts: list[list[dict[str, Any]]] = [[] for _ in range(worker.world)]
    dist.all_gather_object(parts, own.to_pylist())
    counts: list[Counter[str]] = [Counter() for _ in range(depth)]
    ancestors: dict[str, tuple[str, ...]] = {}
    domains: dict[str, Domain] = {}
    for line in (line for part in parts for line in part):
        path = [line[f"l.{level}"] for level in range(depth)]
        if None in path:
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
    floors = [1, *[domain.min_rows] * (depth - 1)]
    tuned = tuple(
        tuple(sorted((n for n, c in count.items() if c >= floor), key=lambda n: (-count[n], n)))
        for count, floor in zip(counts, floors, strict=True)
    )
    thin = {n: c for n, c in counts[-1].items() if c < domain.min_rows}
    return Names(
        tuned=tuned, rows=tuple(counts), ancestors=ancestors, below_floor=thin, domains=domains
    )


def tune_levels(plan: Plan, names: Names, setting: Setting, report: Report) -> list[Tuned]:
    """Every level from the pooled kernel down, resumed where a checkpoint stands."""
    checkpoint = TuningCheckpoint(
        plan.run_dir,
        snapshot=plan.snapshot,
        every_s=plan.checkpoint_every_s,
        worker=setting.worker,
        report=report,
    )
    saved = checkpoint.load()
    tuned: list[Tuned] = []
    for depth, slots in enumerate(names.tuned):
        parent = _inherited(plan, depth, slots, names, tuned).to(setting.worker.device)
        live = _serving(plan, slots, parent)
        start = parent if live is None else live
        held = saved.get(depth)
        done = _restored(start, held) if held else Tuned.nothing(start)
        if held is not None and held.is_finished:
            tuned.append(done)
            continue
        tune_level(
            start,
            level=depth,
            stage=_stage(plan, depth, slots),
            setting=setting,
            report=report,
            save=lambda level, tuner: checkpoint.save(tuned, level, tuner),
            rival=parent if depth and live is not None else None,
            tuned=done,
            current=held.tuner if held else None,
        )
        tuned.append(done)
        checkpoint.save(tuned, is_time=True)
    return tuned


def _stage(plan: Plan, depth: int, slots: Sequence[str]) -> Stage:
    """A level's stage; what serves already has compressed, and seen most of the window."""
    stage = plan.domain if depth else plan.pooled
    if any(name in plan.live for name in slots):
        return replace(stage, compression_epochs=0, max_epochs=stage.live_epochs)
    return stage


def _inherited(
    plan: Plan, depth: int, slots: Sequence[str], names: Names, above: Sequence[Tuned]
) -> Bank:
    """A level's kernels as their nearest tuned ancestors left them; the pooled one is fresh."""
    if depth == 0:
        return stack(plan.shape, {name: fresh(plan.shape, seed=plan.pooled.seed) for name in slots})
    ancestors: dict[str, Weights] = {}
    kernels: dict[str, Weights] = {}
    for name in slots:
        ancestor, level = _ancestor(name, names, above)
        if ancestor not in ancestors:
            ancestors[ancestor] = level.bank.slot(level.bank.names.index(ancestor))
        kernels[name] = ancestors[ancestor]
    if len(ancestors) == 1:
        return repeated(plan.shape, next(iter(ancestors.values())), slots)
    return stack(plan.shape, kernels)


def _serving(plan: Plan, slots: Sequence[str], parent: Bank) -> Bank | None:
    """A level's kernels as they serve, those that do not as inherited; None where none does."""
    live = {name: _live(plan, name) for name in slots if name in plan.live}
    if not live:
        return None
    bank = parent.clone()
    for name, stacked in bank.weights.items():
        for slot, domain in enumerate(slots):
            if domain in live:
                stacked[slot] = live[domain][name]
    return bank


def _ancestor(name: str, names: Names, above: Sequence[Tuned]) -> tuple[str, Tuned]:
    """The nearest tuned domain above a domain, and its level; the pooled one is always there."""
    for ancestor, level in reversed(list(zip(names.ancestors[name], above, strict=True))):
        if ancestor in level.bank.names:
            return ancestor, level
    raise AssertionError(f"{name} has no tuned ancestor, not even {POOLED}")


def _live(plan: Plan, name: str) -> Weights:
    """A serving kernel's weights; the probe, which serves nobody, is new.

    Raises:
        BadRequest: it has another shape.
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


def _restored(start: Bank, held: Saved) -> Tuned:
    """A level as the checkpoint has it."""
    tuned = Tuned(bank=start.like(), **held.how)
    tuned.bank.flat_KN[: tuned.kernels] = held.flat_KN.to(start.flat_KN.device)
    return tuned
