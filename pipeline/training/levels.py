"""The levels of a tuning run, from the pooled kernel down to the domains, and their checkpoint.

A kernel starts from the one that serves its domain now, else from its nearest tuned ancestor; the
pooled one, where nothing serves yet, is fresh.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from pipeline.data.features import POOLED
from pipeline.errors import BadLog, BadRequest
from pipeline.iak.bank import Bank, repeated, stack
from pipeline.iak.kernel import PROBE, KernelShape, Weights, fresh
from pipeline.process import Worker
from pipeline.training.tune import LevelTuner, Setting, Stage, Tuned
from schemas.task import DomainSpec

CHECKPOINT = "tune.safetensors"
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


def find_domains(rows: pa.Table, domain: DomainSpec, worker: Worker) -> Names:
    """Count domains over all workers and decide which are tuned, those with most rows first.

    Raises:
        BadLog: a domain has two parents.
    """
    depth = len(domain.levels)
    own = rows.group_by([f"l.{level}" for level in range(depth)]).aggregate([([], "count_all")])
    parts: list[list[dict[str, Any]]] = [[] for _ in range(worker.world)]
    dist.all_gather_object(parts, own.to_pylist())
    counts: list[Counter[str]] = [Counter() for _ in range(depth)]
    ancestors: dict[str, tuple[str, ...]] = {}
    for line in (line for part in parts for line in part):
        path = [line[f"l.{level}"] for level in range(depth)]
        if None in path:
            continue
        for level, name in enumerate(path):
            counts[level][name] += line["count_all"]
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
    return Names(tuned=tuned, rows=tuple(counts), ancestors=ancestors, below_floor=thin)


def tune_levels(plan: Plan, names: Names, setting: Setting, report: Report) -> list[Tuned]:
    """Every level from the pooled kernel down, resumed where a checkpoint stands."""
    keeper = _Keeper(plan, setting.worker)
    saved = keeper.load()
    tuned: list[Tuned] = []
    for depth, slots in enumerate(names.tuned):
        bank = _start(plan, depth, slots, names, tuned).to(setting.worker.device)
        held = saved.get(depth)
        if held is not None and held.is_finished:
            tuned.append(_finished(bank, held))
            continue
        tuner = LevelTuner(bank, level=depth, stage=_stage(plan, depth, slots), setting=setting)
        if held is not None:
            tuner.load(held.tensors)
            report({"event": "resumed", "level": depth, "epoch": tuner.progress.epoch})

        def told(line: Mapping[str, Any], depth: int = depth) -> None:
            report({"event": f"level {depth}", **line})

        tuned.append(tuner.run(report=told, save=lambda tuner: keeper.save(tuned, tuner)))
        keeper.save(tuned, None)
    return tuned


def _stage(plan: Plan, depth: int, slots: Sequence[str]) -> Stage:
    """A level's stage; what serves already has compressed already."""
    stage = plan.domain if depth else plan.pooled
    is_live = any(name in plan.live for name in slots)
    return replace(stage, compression_epochs=0) if is_live else stage


def _start(
    plan: Plan, depth: int, slots: Sequence[str], names: Names, above: Sequence[Tuned]
) -> Bank:
    """A level's kernels as they serve, or as their nearest tuned ancestors left them."""
    kernels: dict[str, Weights] = {}
    ancestors: dict[str, Weights] = {}
    for name in slots:
        if name in plan.live:
            kernels[name] = _live(plan, name)
        elif depth == 0:
            kernels[name] = fresh(plan.shape, seed=plan.pooled.seed)
        else:
            ancestor, level = _ancestor(name, names, above)
            if ancestor not in ancestors:
                ancestors[ancestor] = level.bank.slot(level.bank.names.index(ancestor))
            kernels[name] = ancestors[ancestor]
    distinct = {id(kernel): kernel for kernel in kernels.values()}
    if len(distinct) == 1:
        return repeated(plan.shape, next(iter(distinct.values())), slots)
    return stack(plan.shape, kernels)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """A level in the checkpoint."""

    is_finished: bool
    tensors: dict[str, Tensor]
    summary: dict[str, Any]


class _Keeper:
    """Writes the checkpoint now and then, on worker 0; an older one replays the same steps."""

    def __init__(self, plan: Plan, worker: Worker) -> None:
        self.plan, self.worker = plan, worker
        self.path = plan.run_dir / CHECKPOINT
        self.written_at = time.monotonic()

    def save(self, done: Sequence[Tuned], current: LevelTuner | None) -> None:
        """Replace the checkpoint: finished levels at their best, the current one as it stands."""
        is_time = time.monotonic() - self.written_at >= self.plan.checkpoint_every_s
        if self.worker.rank or not (is_time or current is None):
            return
        tensors: dict[str, Tensor] = {}
        for depth, level in enumerate(done):
            tensors[f"{depth}/flat"] = level.bank.flat_KN
        if current is not None:
            tensors |= {f"{len(done)}/{n}": t for n, t in current.state().items()}
        finished = {str(depth): _summary(level) for depth, level in enumerate(done)}
        part = self.path.with_name(f".{CHECKPOINT}.part")
        save_file(
            {n: t.contiguous() for n, t in tensors.items()},
            part,
            metadata={"tuning": json.dumps({"snapshot": self.plan.snapshot, "finished": finished})},
        )
        part.replace(self.path)
        self.written_at = time.monotonic()

    def load(self) -> dict[int, _Saved]:
        """The levels in the checkpoint, if there is one.

        Raises:
            BadLog: the log has changed since.
        """
        if not self.path.exists():
            return {}
        with safe_open(self.path, framework="pt") as file:
            tuning = json.loads(file.metadata()["tuning"])
            if tuning["snapshot"] != self.plan.snapshot:
                raise BadLog(
                    f"the log changed since {self.path} was written; its kernels belong to other "
                    "rows. Start a new run"
                )
            by_level: dict[int, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                depth, _, name = key.partition("/")
                by_level.setdefault(int(depth), {})[name] = file.get_tensor(key)
        finished = tuning["finished"]
        return {
            depth: _Saved(
                is_finished=str(depth) in finished,
                tensors=tensors,
                summary=finished.get(str(depth), {}),
            )
            for depth, tensors in by_level.items()
        }


def _summary(level: Tuned) -> dict[str, Any]:
    """How a level got there, without its weights."""
    names = ("start_loss", "best_loss", "best_epoch", "epochs", "stopped_at_cap")
    return {name: getattr(level, name) for name in names}


def _finished(bank: Bank, held: _Saved) -> Tuned:
    flat_KN = held.tensors["flat"].to(bank.flat_KN.device)
    return Tuned(bank=replace(bank, flat_KN=flat_KN), **held.summary)
