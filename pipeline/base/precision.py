"""What low precision costs a base: measured when it is published, and judged before it is used.

Every precision is tried with all tables in it, on the base's own validation rows; a base whose
tables differ in precision is held to the numbers of each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.data.batch import Batch, to_batch
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.loss import TaskShape, probabilities
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.stats.auc import auc
from iak.pipeline.stats.losses import log_loss
from iak.schemas.job import FrozenTablesSpec, Precision
from iak.schemas.manifest import BaseManifest, PrecisionEntry

Report = Callable[[Mapping[str, Any]], None]
MAX_ROWS = 1_000_000
"""Validation rows looked at, over all workers: enough to tell .0001 of AUC on paired rows."""
ANYTHING = 1.0
"""A tolerance that no cost in AUC exceeds: nothing is measured against it."""
_PASSES: tuple[tuple[Precision, ...], ...] = (("fp32",), ("fp16", "int8", "int4"))
"""Precisions tried in one pass over the rows; no pass takes more memory than fp32 tables do."""


def measure(
    base_in: Callable[[Precision], Recommender],
    rows: Reader,
    *,
    tasks: Sequence[TaskShape],
    titles: Sequence[str],
    batch_rows: int,
    worker: Worker,
    report: Report,
) -> list[dict[str, Any]]:
    """Every precision's AUC and log-loss on each task; a collective call.

    Args:
        base_in: the base with all its tables in a precision.
        rows: this worker's validation rows.
        tasks: what the base predicts.
        titles: the tasks' names in the answer.
        batch_rows: rows a worker predicts at a time.
        worker: this process.
        report: progress.

    Returns:
        The fields of a `PrecisionEntry` for each precision and task, on every worker.
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
            if number == 0:
                labels.append(batch.labels_BT.cpu())
                masks.append(batch.mask_BT.cpu())
            done = {"step": number * steps + step + 1, "of": steps * len(_PASSES)}
            report({"event": "step", "what": "batches in each precision", **done})
    seen = {"labels": labels, "mask": masks, **p}
    found = gathered({name: torch.cat(parts).numpy() for name, parts in seen.items()}, worker)
    measured = list(_entries(found, titles, refused)) if found else []
    return everywhere(measured, worker)


def check(manifest: BaseManifest, tables: FrozenTablesSpec) -> list[str]:
    """Refuse precisions that cost a task more than `tables.tolerance`, or that nobody measured.

    Where a task's validation labels are of one class it has no AUC; the tolerance is then that of
    its log-loss in nats a row.

    Returns:
        A sentence for each task on which nothing could be said.

    Raises:
        BadRequest: with the numbers.
    """
    used = set(precisions_of(manifest, tables).values()) - {"fp32"}
    if tables.tolerance >= ANYTHING or not used:
        return []
    entries = {(entry.precision, entry.task): entry for entry in manifest.precisions}
    tasks = dict.fromkeys(entry.task for entry in manifest.precisions)
    unsaid = []
    for precision in sorted(used):
        if not any(entry.precision == precision for entry in manifest.precisions):
            raise BadRequest(
                f"nobody measured what {precision} costs base {manifest.fingerprint[:12]}: its "
                "manifest has no number. Use tables.precision=fp32, publish the base again, or "
                "take the risk with tables.tolerance=1"
            )
        for task in tasks:
            judged = _judge(entries["fp32", task], entries[precision, task], tables.tolerance)
            unsaid += [judged] if judged else []
    return unsaid


def precisions_of(manifest: BaseManifest, tables: FrozenTablesSpec) -> dict[str, Precision]:
    """The precision of every table of a base.

    Raises:
        BadRequest: one is given for a table that the base does not have.
    """
    names = [table.name for table in manifest.tables]
    if unknown := sorted(set(tables.precisions) - set(names)):
        raise BadRequest(f"tables.precisions names unknown tables {unknown}; there are {names}")
    return {name: tables.precisions.get(name, tables.precision) for name in names}


def _judge(full: PrecisionEntry, low: PrecisionEntry, tolerance: float) -> str | None:
    """Refuse one precision on one task, or say why that is not possible."""
    if low.reason:
        raise BadRequest(f"the base has no {low.precision}: {low.reason}")
    where = f"on {low.rows:,} validation rows of {low.task}"
    if full.auc is not None and low.auc is not None:
        cost, told = full.auc - low.auc, f"AUC {full.auc:.5f} -> {low.auc:.5f}"
    elif full.log_loss is not None and low.log_loss is not None:
        cost = low.log_loss - full.log_loss
        told = f"log-loss {full.log_loss:.5f} -> {low.log_loss:.5f} (labels of one class)"
    else:
        return f"{low.precision} was not judged {where}: {full.reason or 'there are none'}"
    if cost > tolerance:
        raise BadRequest(
            f"{low.precision} tables cost {cost:.5f} {where}: {told}; at most {tolerance:g} is "
            "tolerated. Use a finer tables.precision, or raise tables.tolerance"
        )
    return None


@torch.no_grad()
def _predicted(model: Recommender, batch: Batch, tasks: Sequence[TaskShape]) -> Tensor:
    """Each task's probability over all rows."""
    logits_BT = model(batch.ids, batch.numeric_BN)
    return probabilities(logits_BT.double(), tasks).entire_BT.cpu()


def gathered(
    own: Mapping[str, npt.NDArray[Any]], worker: Worker
) -> dict[str, npt.NDArray[Any]] | None:
    """All workers' rows on worker 0, nothing elsewhere."""
    if worker.world == 1:
        return dict(own)
    parts: list[Any] = [None] * worker.world
    dist.gather_object(dict(own), parts if worker.rank == 0 else None)
    if worker.rank:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in own}


def _entries(
    seen: Mapping[str, npt.NDArray[Any]], titles: Sequence[str], refused: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Every precision on every task."""
    for precision in (p for precisions in _PASSES for p in precisions):
        for task, title in enumerate(titles):
            mask_N = seen["mask"][:, task]
            labels_N = seen["labels"][mask_N, task]
            found = {"precision": precision, "task": title, "rows": int(mask_N.sum())}
            if precision in refused:
                yield found | {"reason": refused[precision]}
                continue
            p_N = seen[precision][mask_N, task]
            if not np.isfinite(p_N).all():
                broken = int((~np.isfinite(p_N)).sum())
                yield found | {"reason": f"{broken:,} predictions are not finite"}
                continue
            yield found | {"auc": auc(labels_N, p_N), "log_loss": log_loss(labels_N, p_N)}


def everywhere(measured: list[dict[str, Any]], worker: Worker) -> list[dict[str, Any]]:
    """Worker 0's numbers on every worker."""
    if worker.world > 1:
        held = [measured]
        dist.broadcast_object_list(held, src=0)
        return held[0]
    return measured
