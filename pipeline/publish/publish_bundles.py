"""Publish tuned kernels: let the gate judge each, and write each as a bundle with its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from iak.pipeline.activations.cache import digest_of
from iak.pipeline.publish.bundle import write_bundle
from iak.pipeline.publish.bundle_index import publishing_bundles
from iak.pipeline.publish.gate import GateRows, TaskRows, judge
from iak.pipeline.tuning.finetune import Finetuned, Level
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.schemas.job import GateSpec
from iak.schemas.predictions import MetricTask
from iak.schemas.tuning import KernelResult, StandardisationResult, TuningResult
from iak.schemas.verdict import Verdict

STANDARD = "standard_"
"""Beginning of the names of a bundle's standardisation tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Fields that all bundles of a run share."""

    base_fingerprint: str
    schema_hash: str
    """Digest of the encoded inputs."""
    data_window: Mapping[str, Any]
    """Days and rows of every split, and the fingerprint of the log."""
    spec: Mapping[str, Any]
    """Settings of the kernel and its tuning."""
    versions: Mapping[str, str]
    """Versions of the libraries, by name."""
    created_at: datetime


def publish_bundles(
    done: Finetuned,
    root: Path,
    *,
    provenance: Provenance,
    tasks: Sequence[MetricTask],
    gate: GateSpec,
) -> list[KernelResult]:
    """Judge every kernel on its gate rows and publish the night's bundles, all of them at once.

    Args:
        done: the tuned levels.
        root: folder of the bundles. What it had before is replaced when all are written.
        provenance: fields that all bundles share.
        tasks: tasks that metrics measure.
        gate: floors, margins, and the standard errors that a gain must exceed.

    Returns:
        Every kernel, level by level.
    """
    kernels = []
    with publishing_bundles(root) as folder:
        for level in done.levels:
            for slot, name in enumerate(level.tuned.bank.names):
                rows = _gate_rows(level.gate_rows.get(name), done.tasks, tasks)
                verdict = judge(rows, gate)
                kernels.append(_write_kernel(done, level, slot, name, folder, provenance, verdict))
    return kernels


def tuning_result(done: Finetuned, kernels: Sequence[KernelResult]) -> TuningResult:
    """Return the result of a run, for its record.

    Args:
        done: the tuned levels.
        kernels: results of `publish_bundles`.
    """
    standard = StandardisationResult.model_validate(
        {"from": done.standard_from, "digest": digest_of(*done.standard.tensors().values())}
    )
    return TuningResult(
        kernels=tuple(kernels),
        below_floor=dict(done.below_floor),
        not_reached=done.not_reached,
        stopped_at_cap=tuple(n for level in done.levels for n in level.tuned.stopped_at_cap),
        epochs=tuple(level.tuned.epochs for level in done.levels),
        contract=dict(done.contract),
        labels=dict(done.labels),
        cache=dict(done.cache),
        standardisation=standard,
        digest=done.digest,
        digest_before=done.digest_before,
        tables_and_trunk_unchanged=done.digest == done.digest_before,
        parameters_per_kernel=done.parameters_per_kernel,
        plan=tuple(dict(line) for line in done.plan),
    )


def _write_kernel(
    done: Finetuned,
    level: Level,
    slot: int,
    name: str,
    folder: Path,
    provenance: Provenance,
    verdict: Verdict,
) -> KernelResult:
    """Write one kernel's bundle with its verdict.

    Args:
        done: the tuned levels, with their standardisation.
        level: level of the kernel.
        slot: slot of the kernel in the level's bank.
        name: name of its domain.
        folder: folder of bundles.
        provenance: fields that all bundles share.
        verdict: verdict of the gate.
    """
    tensors = level.tuned.bank.slot(slot)
    # Only compression used the probe.
    tensors = {n: t for n, t in tensors.items() if not n.startswith("probe")}
    tensors |= {f"{STANDARD}{n}": t for n, t in done.standard.tensors().items()}
    rows = level.rows.get(name, 0)
    path = write_bundle(
        folder,
        tensors,
        domain=level.domains[name].as_dict() or None,
        base_fingerprint=provenance.base_fingerprint,
        schema_hash=provenance.schema_hash,
        data_window=dict(provenance.data_window) | {"tuning_rows": rows},
        spec=provenance.spec,
        verdict=verdict,
        versions=provenance.versions,
        created_at=provenance.created_at,
    )
    tuned = level.tuned
    return KernelResult(
        domain=name,
        tuning_rows=rows,
        published=verdict.publish,
        reason=verdict.reason,
        gate=verdict,
        best_epoch=tuned.best_epoch[slot],
        valid_gain=tuned.start_loss[slot] - tuned.best_loss[slot],
        bundle=path.name,
    )


def _gate_rows(
    rows: PairedRows | None, titles: Sequence[str], tasks: Sequence[MetricTask]
) -> GateRows:
    """Return a kernel's gate rows, one entry for each metric task.

    Args:
        rows: gate rows under base and candidate; None where the kernel has none.
        titles: the catalogue's tasks, in the order of the rows' columns.
        tasks: tasks that metrics measure.
    """
    if rows is None:
        rows = _no_rows(len(titles))
    column = {title: index for index, title in enumerate(titles)}
    return GateRows(
        tasks=tuple(_task_rows(rows, task, column) for task in tasks), users_n=rows.user_n
    )


def _task_rows(rows: PairedRows, task: MetricTask, column: Mapping[str, int]) -> TaskRows:
    """Return one task's columns of the gate rows.

    Args:
        rows: gate rows under base and candidate.
        task: task that metrics measure.
        column: index of each of the catalogue's tasks.
    """
    index = column[task.task]
    mask_n = rows.mask_nT[:, index]
    if task.given:  # a conversion by itself is judged where its click happened
        given = column[task.given]
        mask_n = mask_n & rows.mask_nT[:, given] & (rows.labels_nT[:, given] == 1)
    gain_n = rows.base_loss_nT[:, index].astype(np.float64) - rows.candidate_loss_nT[:, index]
    is_own = task.space == "own"
    return TaskRows(
        task=task.name,
        mask_n=mask_n,
        labels_n=rows.labels_nT[:, index],
        base_p_n=(rows.base_own_nT if is_own else rows.base_entire_nT)[:, index],
        kernel_p_n=(rows.candidate_own_nT if is_own else rows.candidate_entire_nT)[:, index],
        gain_n=gain_n if task.has_loss else None,
        kept=task.kept,
    )


def _no_rows(tasks: int) -> PairedRows:
    """Return the gate rows of a kernel that has none."""
    floats = np.zeros((0, tasks), np.float32)
    return PairedRows(
        base_loss_nT=floats,
        candidate_loss_nT=floats,
        labels_nT=floats,
        mask_nT=np.zeros((0, tasks), np.bool_),
        base_own_nT=floats,
        base_entire_nT=floats,
        candidate_own_nT=floats,
        candidate_entire_nT=floats,
    )
