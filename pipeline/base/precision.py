"""Measure the cost of low precision when a base is published, and check it before it is used.

Every precision is measured with all tables in it, on the base's own validation rows. A base whose
tables differ in precision must pass the check for each of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.kept_steps import RowsInSteps
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, WorkDone
from iak.pipeline.model.loss import TaskShape, probabilities
from iak.pipeline.process import Worker
from iak.pipeline.stats.auc import HALF_WIDTH, auc, paired_auc
from iak.pipeline.stats.losses import log_loss
from iak.schemas.job import FrozenTablesSpec, Precision
from iak.schemas.manifest import BaseManifest, PrecisionEntry

D = TypeVar("D")

MAX_ROWS = 1_000_000
"""Most validation rows that are used, over all workers. On paired rows they are enough to detect a
difference of 0.0001 in AUC."""
ANYTHING = 1.0
"""A tolerance that no cost in AUC can exceed. With it nothing is checked."""
_PASSES: tuple[tuple[Precision, ...], ...] = (("fp32",), ("fp16", "int8", "int4"))
"""Precisions that one pass over the rows measures. No pass needs more memory than fp32 tables."""


def measure(
    base_in: Callable[[Precision], nn.Module],
    rows: RowsInSteps,
    *,
    tasks: Sequence[TaskShape],
    titles: Sequence[str],
    batch_rows: int,
    worker: Worker,
    report: Report,
) -> list[PrecisionEntry]:
    """Measure AUC and log-loss of every precision on each task; a collective call.

    Args:
        base_in: returns the base with all its tables in a precision.
        rows: this worker's validation rows.
        tasks: tasks that the base predicts.
        titles: the tasks' names in the result.
        batch_rows: rows that this worker predicts at a time.
        worker: this process.
        report: called with progress events.

    Returns:
        An entry for each precision and task, on every worker.
    """
    p: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    masks: list[Tensor] = []
    refused: dict[str, str] = {}
    steps = min(rows.steps(batch_rows), math.ceil(MAX_ROWS / worker.world / batch_rows))
    for number, precisions in enumerate(_PASSES):
        models = {}
        for precision in precisions:
            try:
                models[precision] = base_in(precision)
            except BadRequest as error:
                refused[precision] = str(error)
        for step, table in enumerate(islice(rows.in_step(batch_rows), steps)):
            batch = to_batch(table, rows.catalog).to(worker.device)
            for precision, model in models.items():
                p.setdefault(precision, []).append(_predicted(model, batch, tasks))
            if number == 0:  # every pass reads the same rows in the same order
                labels.append(batch.labels_BT.cpu())
                masks.append(batch.mask_BT.cpu())
            done = number * steps + step + 1
            report(WorkDone("batches in each precision", done, steps * len(_PASSES)))
    own = {"labels": labels, "mask": masks, **p}
    rows_of_all = gather_rows({name: torch.cat(part).numpy() for name, part in own.items()}, worker)
    measured = list(_entries(rows_of_all, titles, refused)) if rows_of_all else []
    return broadcast(measured, worker)


def check(manifest: BaseManifest, tables: FrozenTablesSpec) -> list[str]:
    """Refuse precisions that cost a task more than `tables.tolerance`, or that nobody measured.

    A task whose validation labels are of one class has no AUC. The tolerance is then that of its
    log-loss, in nats per row. A cost in AUC is refused where its 95 % interval is above the
    tolerance: on a few validation rows one swapped pair may exceed it.

    Args:
        manifest: manifest of the base, with its measured precisions.
        tables: precisions that are wanted, and their tolerance.

    Returns:
        A sentence for each task that could not be judged, or not surely.

    Raises:
        BadRequest: a precision costs too much, or was not measured; the message has the numbers.
    """
    used = set(precisions_of(manifest, tables).values()) - {"fp32"}
    if tables.tolerance >= ANYTHING or not used:
        return []
    entries = {(entry.precision, entry.task): entry for entry in manifest.precisions}
    tasks = dict.fromkeys(entry.task for entry in manifest.precisions)
    unchecked = []
    for precision in sorted(used):
        if not any(entry.precision == precision for entry in manifest.precisions):
            raise BadRequest(
                f"nobody measured what {precision} costs base {manifest.fingerprint[:12]}: its "
                "manifest has no number. Use tables.precision=fp32, publish the base again, or "
                "take the risk with tables.tolerance=1"
            )
        for task in tasks:
            reason = _judge(entries["fp32", task], entries[precision, task], tables.tolerance)
            unchecked += [reason] if reason else []
    return unchecked


def precisions_of(manifest: BaseManifest, tables: FrozenTablesSpec) -> dict[str, Precision]:
    """Return the precision of every table of a base.

    Raises:
        BadRequest: one is given for a table that the base does not have.
    """
    names = [table.name for table in manifest.tables]
    if unknown := sorted(set(tables.precisions) - set(names)):
        raise BadRequest(f"tables.precisions names unknown tables {unknown}; there are {names}")
    return {name: tables.precisions.get(name, tables.precision) for name in names}


def _judge(full: PrecisionEntry, low: PrecisionEntry, tolerance: float) -> str | None:
    """Refuse a precision that costs one task too much; return why it could not be checked, if so.

    Raises:
        BadRequest: the base has no such precision, or it costs more than `tolerance`.
    """
    if low.reason:
        raise BadRequest(f"the base has no {low.precision}: {low.reason}")
    where = f"on {low.rows:,} validation rows of {low.task}"
    if full.auc is not None and low.auc is not None:
        cost, change = full.auc - low.auc, f"AUC {full.auc:.5f} -> {low.auc:.5f}"
        noise = HALF_WIDTH * (low.auc_error or 0.0)
        if cost - noise <= tolerance < cost:
            return (
                f"{low.precision} tables cost {cost:.5f} +- {noise:.5f} {where}, too few to tell "
                f"it from the {tolerance:g} that is tolerated"
            )
    elif full.log_loss is not None and low.log_loss is not None:
        cost = low.log_loss - full.log_loss
        change = f"log-loss {full.log_loss:.5f} -> {low.log_loss:.5f} (labels of one class)"
    else:
        return f"{low.precision} was not judged {where}: {full.reason or 'there are none'}"
    if cost > tolerance:
        raise BadRequest(
            f"{low.precision} tables cost {cost:.5f} {where}: {change}; at most {tolerance:g} is "
            "tolerated. Use a finer tables.precision, or raise tables.tolerance"
        )
    return None


@torch.no_grad()
def _predicted(model: nn.Module, batch: Batch, tasks: Sequence[TaskShape]) -> Tensor:
    """Return each task's probability over all rows, on the CPU; a collective call."""
    logits_BT = model(batch.ids, batch.numeric_BN)
    return probabilities(logits_BT.double(), tasks).entire_BT.cpu()


def gather_rows(
    own: Mapping[str, npt.NDArray[Any]], worker: Worker
) -> dict[str, npt.NDArray[Any]] | None:
    """Return all workers' rows on worker 0, None elsewhere; a collective call.

    Args:
        own: columns of this worker's rows, by name.
        worker: this process.
    """
    if worker.world == 1:
        return dict(own)
    parts: list[Any] = [None] * worker.world
    dist.gather_object(dict(own), parts if worker.rank == 0 else None)
    if worker.rank:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in own}


def _entries(
    rows: Mapping[str, npt.NDArray[Any]], titles: Sequence[str], refused: Mapping[str, str]
) -> Iterator[PrecisionEntry]:
    """Yield an entry for every precision and task.

    Args:
        rows: labels, masks and each precision's probabilities, of all workers.
        titles: the tasks' names.
        refused: precision -> why the base cannot be stored in it.
    """
    for precision in (p for precisions in _PASSES for p in precisions):
        for task, title in enumerate(titles):
            mask_N = rows["mask"][:, task]
            labels_N = rows["labels"][mask_N, task]
            entry = partial(PrecisionEntry, precision=precision, task=title, rows=int(mask_N.sum()))
            if precision in refused:
                yield entry(reason=refused[precision])
                continue
            p_N = rows[precision][mask_N, task]
            if not np.isfinite(p_N).all():
                broken = int((~np.isfinite(p_N)).sum())
                yield entry(reason=f"{broken:,} predictions are not finite")
                continue
            full_N = None if precision == "fp32" else rows["fp32"][mask_N, task]
            yield entry(**_quality(labels_N, p_N, full_N))


def _quality(
    labels_N: npt.NDArray[Any], p_N: npt.NDArray[Any], full_N: npt.NDArray[Any] | None
) -> dict[str, float | None]:
    """Return the quality of a task's probabilities.

    The AUC of a single positive, or of a single negative, is left out: nothing tells its error.

    Args:
        labels_N: 0 or 1.
        p_N: the probabilities.
        full_N: those of fp32 tables, from which the AUC's difference is taken; None for themselves.
    """
    of_class = np.bincount(labels_N.astype(np.int64), minlength=2)
    pair = None if full_N is None else paired_auc(labels_N, p_N, full_N)
    return {
        "auc": auc(labels_N, p_N) if min(of_class) > 1 else None,
        "auc_error": None if pair is None else pair.se,
        "log_loss": log_loss(labels_N, p_N),
    }


def broadcast(documents: list[D], worker: Worker) -> list[D]:
    """Return worker 0's documents on every worker; a collective call."""
    if worker.world > 1:
        boxed = [documents]
        dist.broadcast_object_list(boxed, src=0)
        return boxed[0]
    return documents
