"""Collect the rows that the gate reads: labels, and predictions of base and candidate.

Shapes: n rows of a kernel, B rows of a batch, K slots, P slots present in a batch, T tasks, C code
units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.iak.bank import Bank
from iak.pipeline.iak.grouped import slot_sums
from iak.pipeline.model.loss import probabilities, task_losses
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.validation import PredictedBatch, predicted_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeMoments:
    """Sums over a kernel's rows of each code unit's mean, from which its variance follows."""

    rows: int
    sums_C: npt.NDArray[np.float64]
    squares_C: npt.NDArray[np.float64]

    def __add__(self, other: "CodeMoments") -> "CodeMoments":
        """Return the moments of both parts' rows together."""
        return CodeMoments(
            rows=self.rows + other.rows,
            sums_C=self.sums_C + other.sums_C,
            squares_C=self.squares_C + other.squares_C,
        )

    def variances(self) -> npt.NDArray[np.float64]:
        """Return the variance of each unit's mean over the rows, (C,)."""
        mean_C = self.sums_C / self.rows
        # The difference of two sums may round to slightly below zero.
        found: npt.NDArray[np.float64] = np.maximum(self.squares_C / self.rows - mean_C**2, 0.0)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRows:
    """One kernel's gate rows: the same rows as base and candidate predict them.

    `own` is a task's own probability (of a conversion: given its click), `entire` the one over all
    rows. Losses are those that tuning lowers, with the tasks' weights; 0 where the mask is False.
    """

    base_loss_nT: npt.NDArray[np.float32]
    candidate_loss_nT: npt.NDArray[np.float32]
    labels_nT: npt.NDArray[np.float32]
    mask_nT: npt.NDArray[np.bool_]
    base_own_nT: npt.NDArray[np.float32]
    base_entire_nT: npt.NDArray[np.float32]
    candidate_own_nT: npt.NDArray[np.float32]
    candidate_entire_nT: npt.NDArray[np.float32]
    rate_n: npt.NDArray[np.float32] | None = None
    """Rate of each row's code in the candidate, in nats."""
    code: CodeMoments | None = None
    """Moments of the candidate's code over all these rows; None where only some were chosen."""
    user_n: npt.NDArray[np.int64] | None = None
    """Key of each row's user; None where the log declares none."""
    day_n: npt.NDArray[np.int64] | None = None
    """Day of each row, in days since 1970-01-01; None where nobody asked for it."""
    second_n: npt.NDArray[np.float64] | None = None
    """Unix time of each row's event in seconds, minus infinity where it has none; None where the
    log has no event time."""

    @property
    def base_loss(self) -> npt.NDArray[np.float64]:
        """Return each row's loss under the base, all tasks together."""
        total_n: npt.NDArray[np.float64] = self.base_loss_nT.sum(axis=1, dtype=np.float64)
        return total_n

    @property
    def candidate_loss(self) -> npt.NDArray[np.float64]:
        """Return each row's loss under the candidate, all tasks together."""
        total_n: npt.NDArray[np.float64] = self.candidate_loss_nT.sum(axis=1, dtype=np.float64)
        return total_n


@torch.no_grad()
def collect_gate_rows(
    bank: Bank, level: int, context: TuningContext, rows: TuningRows, *, rival: Bank | None = None
) -> dict[str, PairedRows]:
    """Return every kernel's gate rows by name on worker 0, none elsewhere; a collective call.

    Args:
        bank: the level's kernels at their best.
        level: level whose slots are read, a column of `slots_nL`.
        context: towers, tasks and this worker; its own rows are not read.
        rows: this worker's rows of the gate slice.
        rival: kernels of the same slots that take the place of the base; None compares with the
            base itself.
    """
    parts: list[dict[str, PairedRows]] = []
    weights_T = torch.tensor([t.weight for t in context.tasks])
    everywhere_K = torch.ones(len(bank.names), dtype=torch.bool)
    batches = predicted_batches(bank, level, context, rows, everywhere_K)
    # Both iterators cut the same rows into the same batches, so they can run side by side.
    rivals = (
        repeat(None)
        if rival is None
        else predicted_batches(rival, level, context, rows, everywhere_K)
    )
    for batch, other in zip(batches, rivals, strict=False):
        index_B = batch.index_B
        labels_BT, mask_BT = rows.labels_nT[index_B], rows.mask_nT[index_B]
        columns = {"labels_nT": labels_BT, "mask_nT": mask_BT, "rate_n": batch.rate_B.cpu()}
        if rows.user_n is not None:
            columns["user_n"] = rows.user_n[index_B]
        if rows.day_n is not None:
            columns["day_n"] = rows.day_n[index_B]
        if rows.second_n is not None:
            columns["second_n"] = rows.second_n[index_B]
        # The base's logits from the same h that the kernel read, so that only the kernel differs.
        before_BT = context.heads(batch.h_BH) if other is None else other.logits_BT
        for who, logits_BT in (
            ("base", before_BT.cpu()),
            ("candidate", batch.logits_BT.cpu()),
        ):
            losses_BT = task_losses(logits_BT, labels_BT, mask_BT, context.tasks) * weights_T
            p = probabilities(logits_BT, context.tasks)
            columns |= {
                f"{who}_loss_nT": losses_BT,
                f"{who}_own_nT": p.own_BT,
                f"{who}_entire_nT": p.entire_BT,
            }
        parts.append(_by_name(bank.names[batch.present], batch, columns))
    everywhere: list[list[dict[str, PairedRows]]] = [[] for _ in range(context.worker.world)]
    dist.gather_object(parts, everywhere if context.worker.rank == 0 else None)
    return _joined([part for parts in everywhere for part in parts])


def _by_name(
    names: Sequence[str], batch: PredictedBatch, columns: Mapping[str, Tensor]
) -> dict[str, PairedRows]:
    """Cut the columns of a batch into its kernels' rows; a kernel without rows is left out."""
    ends = batch.segments.ends_P.tolist()
    code_BC = batch.code_BC.double()
    sums_PC, squares_PC = (
        slot_sums(values_BC, batch.segments).cpu().numpy() for values_BC in (code_BC, code_BC**2)
    )
    parts = {}
    for slot, (name, start, end) in enumerate(zip(names, [0, *ends], ends, strict=False)):
        if end > start:
            parts[name] = PairedRows(
                **{field: column[start:end].numpy() for field, column in columns.items()},
                code=CodeMoments(
                    rows=end - start, sums_C=sums_PC[slot], squares_C=squares_PC[slot]
                ),
            )
    return parts


def _joined(parts: Sequence[Mapping[str, PairedRows]]) -> dict[str, PairedRows]:
    """Return each kernel's rows of all parts, in the order of the parts."""
    by_name: dict[str, list[PairedRows]] = {}
    for part in parts:
        for name, rows in part.items():
            by_name.setdefault(name, []).append(rows)
    return {name: _concatenated(rows) for name, rows in by_name.items()}


def _concatenated(parts: Sequence[PairedRows]) -> PairedRows:
    """Return the parts as one. An optional column is in all of them or in none."""
    joined: dict[str, Any] = {}
    for field in fields(PairedRows):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            joined[field.name] = None
        elif isinstance(values[0], CodeMoments):
            joined[field.name] = sum(values[1:], values[0])
        else:
            joined[field.name] = np.concatenate(values)
    return PairedRows(**joined)
