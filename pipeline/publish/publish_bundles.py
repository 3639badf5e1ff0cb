"""Tuned kernels before the gate: judge each, and write each as a bundle with its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from iak.pipeline.publish.bundle import write_bundle
from iak.pipeline.publish.bundle_index import publishing_bundles
from iak.pipeline.publish.gate import GateRows, TaskRows, judge
from iak.pipeline.tuning.finetune import Finetuned, Level
from iak.pipeline.tuning.gate_rows import Judged
from iak.schemas.job import GateSpec
from iak.schemas.predictions import MetricTask
from iak.schemas.verdict import Verdict

STANDARD = "standard_"
"""How the names of a bundle's standardisation begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What every bundle of a run says besides its own kernel."""

    base_fingerprint: str
    schema_hash: str
    data_window: Mapping[str, Any]
    spec: Mapping[str, Any]
    versions: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One kernel after the gate."""

    domain: str
    rows: int
    verdict: Verdict
    path: Path
    best_epoch: int
    valid_gain: float


def offer(
    done: Finetuned, root: Path, *, papers: Provenance, tasks: Sequence[MetricTask], gate: GateSpec
) -> list[Offer]:
    """Judge every kernel on its gate rows and publish the night's bundles, all of them at once.

    Args:
        done: the tuned levels.
        root: folder of the bundles; what stood there is replaced when all are written.
        papers: what all bundles share.
        tasks: what metrics judge.
        gate: floors, margins and the standard errors that a gain must exceed.
    """
    offers = []
    with publishing_bundles(root) as built:
        for level in done.levels:
            for slot, name in enumerate(level.tuned.bank.names):
                rows = _gate_rows(level.judged.get(name), done.tasks, tasks)
                verdict = judge(rows, gate)
                offers.append(_offer_one(done, level, slot, name, built, papers, verdict))
    return [replace(one, path=root / one.path.name) for one in offers]


def _offer_one(
    done: Finetuned,
    level: Level,
    slot: int,
    name: str,
    root: Path,
    papers: Provenance,
    verdict: Verdict,
) -> Offer:
    """Write one kernel's bundle with its verdict."""
    tensors = level.tuned.bank.slot(slot)
    tensors = {n: t for n, t in tensors.items() if not n.startswith("probe")}
    tensors |= {f"{STANDARD}{n}": t for n, t in done.standard.tensors().items()}
    path = write_bundle(
        root,
        tensors,
        domain=level.domains[name].as_dict() or None,
        base_fingerprint=papers.base_fingerprint,
        schema_hash=papers.schema_hash,
        data_window=dict(papers.data_window) | {"tuning_rows": level.rows.get(name, 0)},
        spec=papers.spec,
        verdict=verdict,
        versions=papers.versions,
        created_at=papers.created_at,
    )
    tuned = level.tuned
    return Offer(
        domain=name,
        rows=level.rows.get(name, 0),
        verdict=verdict,
        path=path,
        best_epoch=tuned.best_epoch[slot],
        valid_gain=tuned.start_loss[slot] - tuned.best_loss[slot],
    )


def _gate_rows(rows: Judged | None, titles: Sequence[str], tasks: Sequence[MetricTask]) -> GateRows:
    """Return a kernel's gate rows, task by task as metrics judge them.

    Args:
        rows: under base and candidate; None where the kernel has none.
        titles: the catalogue's tasks, in the order of the rows' columns.
        tasks: what metrics judge.
    """
    if rows is None:
        rows = _no_rows(len(titles))
    column = {title: place for place, title in enumerate(titles)}
    return GateRows(
        tasks=tuple(_task_rows(rows, task, column) for task in tasks), users_n=rows.user_n
    )


def _task_rows(rows: Judged, task: MetricTask, column: Mapping[str, int]) -> TaskRows:
    """Return one task's columns of the gate rows."""
    place = column[task.task]
    mask_n = rows.mask_nT[:, place]
    if task.given:
        given = column[task.given]
        mask_n = mask_n & rows.mask_nT[:, given] & (rows.labels_nT[:, given] == 1)
    gain_n = rows.base_loss_nT[:, place].astype(np.float64) - rows.candidate_loss_nT[:, place]
    is_own = task.space == "own"
    return TaskRows(
        task=task.name,
        mask_n=mask_n,
        labels_n=rows.labels_nT[:, place],
        base_p_n=(rows.base_own_nT if is_own else rows.base_entire_nT)[:, place],
        kernel_p_n=(rows.candidate_own_nT if is_own else rows.candidate_entire_nT)[:, place],
        gain_n=gain_n if task.has_loss else None,
        kept=task.kept,
    )


def _no_rows(tasks: int) -> Judged:
    """Return the gate rows of a kernel that has none."""
    floats = np.zeros((0, tasks), np.float32)
    return Judged(
        base_loss_nT=floats,
        candidate_loss_nT=floats,
        labels_nT=floats,
        mask_nT=np.zeros((0, tasks), np.bool_),
        base_own_nT=floats,
        base_entire_nT=floats,
        candidate_own_nT=floats,
        candidate_entire_nT=floats,
    )
