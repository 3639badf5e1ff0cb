"""One worker's part in tuning: the frozen base over the rows, then level after level of kernels.

Level 0 is the pooled kernel, the last level the domains; each kernel starts from the nearest tuned
ancestor. What comes out is every level's best kernels, with the rows a gate needs to judge them.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist

from pipeline.data import features
from pipeline.data.features import POOLED
from pipeline.data.reader import Reader
from pipeline.data.view import LogView
from pipeline.errors import BadLog, PipelineError
from pipeline.iak.bank import Bank, stack
from pipeline.iak.kernel import PROBE, KernelShape, fresh
from pipeline.model import frozen
from pipeline.model.frozen import Digest
from pipeline.model.loss import probabilities, task_losses
from pipeline.process import Worker
from pipeline.sharding import published
from pipeline.sharding.plan import describe, plan_tables
from pipeline.sharding.shard import dense_state, local_shards, shard, unwrap
from pipeline.training import activations, base, tune
from pipeline.training.activations import Recomputed, TuningRows
from pipeline.training.base import PublishedBase
from pipeline.training.tune import LevelTuner, Setting, Stage, Standard, Tuned
from schemas.job import KernelSpec

Report = Callable[[Mapping[str, Any]], None]
SPLITS = ("tune", "valid", "gate")
CHECKPOINT = "tune.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneWork:
    """What every worker of a tuning run is handed."""

    view: LogView
    base: PublishedBase
    kernel: KernelSpec
    pooled: Stage
    domain: Stage
    run_dir: Path
    keeps_activations: bool
    encode_rows: int
    sharding: Mapping[str, str]
    row_wise_from_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a gate needs of one kernel: its rows on the gate slice, under base and candidate.

    n rows, T tasks. The fields stand in the order in which `_judged` makes them.
    """

    base_loss: npt.NDArray[np.float64]
    candidate_loss: npt.NDArray[np.float64]
    labels_nT: npt.NDArray[np.float32]
    mask_nT: npt.NDArray[np.bool_]
    base_p_nT: npt.NDArray[np.float32]
    candidate_p_nT: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level's kernels, and their gate rows (on worker 0 alone)."""

    keys: tuple[str, ...]
    tuned: Tuned
    rows: Mapping[str, int]
    judged: Mapping[str, Judged]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """What a tuning run came to."""

    levels: tuple[Level, ...]
    below_floor: Mapping[str, int]
    """Domains with fewer tuning rows than their floor, and how many they have."""
    standard: Standard
    tasks: tuple[str, ...]
    contract: Mapping[str, int]
    digest: str
    """Of tables and trunk after tuning."""
    digest_before: str
    """The same before; equal, or `finetune` has raised."""
    plan: Sequence[Mapping[str, object]]
    parameters_per_kernel: int


def finetune(work: FinetuneWork, *, worker: Worker, report: Report) -> Finetuned:
    """Tune every level; a collective call.

    Raises:
        PipelineError: tables or trunk changed, which nothing here may do.
    """
    model, plan = frozen_base(work.base, work.sharding, work.row_wise_from_rows, worker)
    before = digest_of(model, worker)
    tables, seen = _read(work, worker)
    names = _names(work, tables["tune"], worker)
    rows = {
        split: _tuning_rows(work, model, tables[split], names.tuned, worker, report)
        for split in SPLITS
    }
    setting = _setting(work, model, rows, worker)
    tuned = _tune_levels(work, names, setting, report)
    levels = tuple(
        Level(
            keys=work.view.catalog.domain.levels[depth],
            tuned=done,
            rows={n: names.rows[depth][n] for n in done.bank.names},
            judged=_judged(done.bank, depth, setting, rows["gate"]),
        )
        for depth, done in enumerate(tuned)
    )
    after = digest_of(model, worker)
    _check_unchanged(before, after)
    sizes = {n: size for n, size in _shape(work, setting).sizes().items() if n not in PROBE}
    return Finetuned(
        levels=levels,
        below_floor=names.below_floor,
        standard=setting.standard,
        tasks=tuple(t.name for t in setting.tasks),
        contract=seen,
        digest=after.combined,
        digest_before=before.combined,
        plan=describe(plan),
        parameters_per_kernel=sum(math.prod(size) for size in sizes.values()),
    )


def _setting(
    work: FinetuneWork, model: nn.Module, rows: Mapping[str, TuningRows], worker: Worker
) -> Setting:
    return Setting(
        heads=unwrap(model).heads,
        tasks=base.task_shapes(work.view.catalog),
        standard=tune.standard_of(rows["tune"], reads_x=work.kernel.reads == "hx", worker=worker),
        train=rows["tune"],
        valid=rows["valid"],
        worker=worker,
    )


def _check_unchanged(before: Digest, after: Digest) -> None:
    if after != before:
        raise PipelineError(
            f"tables or trunk changed while kernels were tuned: digest {before.combined} before, "
            f"{after.combined} after. Nothing is published"
        )


def frozen_base(
    opened: PublishedBase, sharding: Mapping[str, str], row_wise_from_rows: int, worker: Worker
) -> tuple[nn.Module, Any]:
    """The published base, sharded over the workers and frozen; and its plan."""
    plan = plan_tables(
        base.table_shapes(opened.catalog, opened.encoding, width=opened.model.width),
        world=worker.world,
        device=worker.device,
        overrides=sharding,
        row_wise_from_rows=row_wise_from_rows,
    )
    model = base.build_model(opened.catalog, opened.encoding, opened.model, seed=0)
    frozen.freeze(model)
    sharded = shard(model, plan, worker=worker, tables_optimizer=None, initialise=False)
    published.read_base_weights(
        sharded, opened.folder, [f.model_dump() for f in opened.manifest.files], worker
    )
    sharded.eval()
    return sharded, plan


def digest_of(model: nn.Module, worker: Worker) -> Digest:
    """Digest of every table and every dense weight of the base."""
    return frozen.digest(local_shards(model), dense_state(model), worker=worker)


def _read(work: FinetuneWork, worker: Worker) -> tuple[dict[str, pa.Table], Counter[str]]:
    """This worker's encoded rows of each split, and what the contract found in all of them."""
    seen: Counter[str] = Counter()
    tables = {split: collect(work.view, work.base, split, worker, seen) for split in SPLITS}
    return tables, gathered(seen, worker)


def collect(
    view: LogView, opened: PublishedBase, split: str, worker: Worker, seen: Counter[str]
) -> pa.Table:
    """This worker's rows of a split, encoded, in memory."""
    reader = Reader(
        selection=view.selections[split],
        catalog=view.catalog,
        encoding=opened.encoding,
        rank=worker.rank,
        world=worker.world,
        as_of=view.as_of,
    )
    parts = [pa.Table.from_batches([part]) for part in reader.in_order(seen)]
    if not parts:
        return features.no_rows(view.catalog)
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def gathered(seen: Counter[str], worker: Worker) -> Counter[str]:
    """Counts over all workers."""
    parts: list[dict[str, int]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(parts, dict(seen))
    joined: Counter[str] = Counter()
    for part in parts:
        joined.update(part)
    return joined


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


def _names(work: FinetuneWork, rows: pa.Table, worker: Worker) -> Names:
    """Count domains over all workers and decide which are tuned.

    Raises:
        BadLog: a domain has two parents.
    """
    domain = work.view.catalog.domain
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
        tuple(sorted(n for n, c in count.items() if c >= floor))
        for count, floor in zip(counts, floors, strict=True)
    )
    thin = {n: c for n, c in counts[-1].items() if c < domain.min_rows}
    return Names(tuned=tuned, rows=tuple(counts), ancestors=ancestors, below_floor=thin)


def _tuning_rows(
    work: FinetuneWork,
    model: nn.Module,
    rows: pa.Table,
    names: Sequence[Sequence[str]],
    worker: Worker,
    report: Report,
) -> TuningRows:
    """The rows with their activations: computed now and kept, or looked up at each use."""
    catalog = work.view.catalog
    if not work.keeps_activations:
        through = Recomputed(model=model, rows=rows, catalog=catalog, device=worker.device)
        return activations.tuning_rows(rows, through, catalog, names)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report({"event": "step", "what": "rows through the base", "step": done, "of": len(rows)})

    kept = activations.compute(
        model, rows, catalog, worker=worker, batch_rows=work.encode_rows, advance=advance
    )
    return activations.tuning_rows(rows, kept, catalog, names)


def _shape(work: FinetuneWork, setting: Setting) -> KernelShape:
    heads = setting.heads
    return KernelShape(
        base=heads.tasks * heads.width,
        inputs=len(setting.standard.mean_A),
        hidden=work.kernel.hidden,
        code=work.kernel.code,
        tasks=heads.tasks,
        tower_in=heads.width,
        tower_hidden=heads.hidden,
        rank=work.kernel.adapter_rank,
    )


def _tune_levels(work: FinetuneWork, names: Names, setting: Setting, report: Report) -> list[Tuned]:
    """Every level from the pooled kernel down, resumed where a checkpoint stands."""
    shape = _shape(work, setting)
    snapshot = work.view.snapshot.fingerprint
    saved = _load(work.run_dir / CHECKPOINT, snapshot=snapshot)
    tuned: list[Tuned] = []
    for depth, slots in enumerate(names.tuned):
        bank = _start(shape, depth, slots, names, tuned, seed=work.pooled.seed)
        bank = bank.to(setting.worker.device)
        held = saved.get(depth)
        if held is not None and held.is_finished:
            tuned.append(_finished(bank, held))
            continue
        tuner = LevelTuner(
            bank, level=depth, stage=work.domain if depth else work.pooled, setting=setting
        )
        if held is not None:
            tuner.load(held.tensors)
            report({"event": "resumed", "level": depth, "epoch": tuner.progress.epoch})
        save = partial(_save, work.run_dir, snapshot, setting.worker, tuned)
        tuned.append(tuner.run(report=partial(_report_level, report, depth), save=save))
        save(None)
    return tuned


def _report_level(report: Report, depth: int, line: Mapping[str, Any]) -> None:
    report({"event": f"level {depth}", **line})


def _start(
    shape: KernelShape,
    depth: int,
    slots: Sequence[str],
    names: Names,
    above: Sequence[Tuned],
    *,
    seed: int,
) -> Bank:
    """A level's kernels as their nearest tuned ancestors left them; the pooled one is fresh."""
    if depth == 0:
        return stack(shape, {POOLED: fresh(shape, seed=seed)})
    kernels = {}
    for name in slots:
        for ancestor, level in reversed(list(zip(names.ancestors[name], above, strict=True))):
            if ancestor in level.bank.names:
                kernels[name] = level.bank.slot(level.bank.names.index(ancestor))
                break
    return stack(shape, kernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """A level in the checkpoint."""

    is_finished: bool
    tensors: dict[str, Tensor]
    summary: dict[str, Any]


def _save(
    run_dir: Path,
    snapshot: str,
    worker: Worker,
    done: Sequence[Tuned],
    current: LevelTuner | None,
) -> None:
    """Replace the checkpoint: finished levels at their best, the current one as it stands."""
    if worker.rank:
        return
    tensors: dict[str, Tensor] = {}
    summaries: dict[str, Any] = {}
    for depth, level in enumerate(done):
        tensors |= {f"{depth}/{n}": t for n, t in level.bank.weights.items()}
        summaries[str(depth)] = _summary(level)
    if current is not None:
        tensors |= {f"{len(done)}/{n}": t for n, t in current.state().items()}
    part = run_dir / f".{CHECKPOINT}.part"
    save_file(
        {n: t.contiguous().clone() for n, t in tensors.items()},
        part,
        metadata={"tuning": json.dumps({"snapshot": snapshot, "finished": summaries})},
    )
    part.replace(run_dir / CHECKPOINT)


def _load(path: Path, *, snapshot: str) -> dict[int, _Saved]:
    """The levels in a checkpoint, if there is one.

    Raises:
        BadLog: the log has changed since.
    """
    if not path.exists():
        return {}
    with safe_open(path, framework="pt") as file:
        tuning = json.loads(file.metadata()["tuning"])
        if tuning["snapshot"] != snapshot:
            raise BadLog(
                f"the log changed since {path} was written; its kernels belong to other rows. "
                "Start a new run"
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
    weights = {name: held.tensors[name].to(w.device) for name, w in bank.weights.items()}
    return Tuned(bank=Bank(shape=bank.shape, names=bank.names, weights=weights), **held.summary)


@torch.no_grad()
def _judged(bank: Bank, depth: int, setting: Setting, rows: TuningRows) -> dict[str, Judged]:
    """Every kernel's gate rows, gathered on worker 0."""
    parts: list[dict[str, Judged]] = []
    weights_T = torch.tensor([t.weight for t in setting.tasks])
    for places_B, bounds in tune.by_slot(rows.slots_nL[:, depth], len(bank.names), setting.worker):
        logits = tune.candidate_logits(bank.weights, setting, places_B, bounds, rows)
        before_BT, after_BT = (logits_BT.cpu() for logits_BT in logits)
        labels_BT, mask_BT = rows.labels_nT[places_B], rows.mask_nT[places_B]
        losses = [
            (task_losses(logits_BT, labels_BT, mask_BT, setting.tasks) * weights_T).sum(1).double()
            for logits_BT in (before_BT, after_BT)
        ]
        p = [probabilities(x_BT, setting.tasks).entire_BT for x_BT in (before_BT, after_BT)]
        parts.append(_by_name(bank.names, bounds, (*losses, labels_BT, mask_BT, *p)))
    everywhere: list[list[dict[str, Judged]]] = [[] for _ in range(setting.worker.world)]
    dist.gather_object(parts, everywhere if setting.worker.rank == 0 else None)
    return _joined([part for parts in everywhere for part in parts])


def _by_name(
    names: Sequence[str], bounds: Sequence[int], columns: Sequence[Tensor]
) -> dict[str, Judged]:
    fields = tuple(Judged.__dataclass_fields__)
    starts = [0, *bounds]
    return {
        name: Judged(
            **{
                field: column[start:end].numpy()
                for field, column in zip(fields, columns, strict=True)
            }
        )
        for name, start, end in zip(names, starts, bounds, strict=False)
        if end > start
    }


def _joined(parts: Sequence[Mapping[str, Judged]]) -> dict[str, Judged]:
    """Every name's rows, one after the other."""
    by_name: dict[str, list[Judged]] = {}
    for part in parts:
        for name, judged in part.items():
            by_name.setdefault(name, []).append(judged)
    fields = tuple(Judged.__dataclass_fields__)
    return {
        name: Judged(**{f: np.concatenate([getattr(j, f) for j in held]) for f in fields})
        for name, held in by_name.items()
    }
