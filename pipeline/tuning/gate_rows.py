"""What a gate needs to judge kernels: their rows of the gate slice, under base and candidate.

Shapes: n rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.iak.bank import Bank
from iak.pipeline.model.loss import probabilities, task_losses
from iak.pipeline.tuning.tune import Setting, judged_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a gate needs of one kernel: its rows on the gate slice, under base and candidate.

    `own` is a task's own probability (a conversion's given its click), `entire` that over all rows.
    Losses are those that tuning lowers, weighted as it sums them; 0 where the mask is False.
    """

    base_loss_nT: npt.NDArray[np.float32]
    candidate_loss_nT: npt.NDArray[np.float32]
    labels_nT: npt.NDArray[np.float32]
    mask_nT: npt.NDArray[np.bool_]
    base_own_nT: npt.NDArray[np.float32]
    base_entire_nT: npt.NDArray[np.float32]
    candidate_own_nT: npt.NDArray[np.float32]
    candidate_entire_nT: npt.NDArray[np.float32]
    user_n: npt.NDArray[np.int64] | None = None
    """Key of each row's user; None where the log declares none."""

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
def gate_rows(bank: Bank, level: int, setting: Setting, rows: TuningRows) -> dict[str, Judged]:
    """Every kernel's gate rows, gathered on worker 0; a collective call."""
    parts: list[dict[str, Judged]] = []
    weights_T = torch.tensor([t.weight for t in setting.tasks])
    everywhere_K = torch.ones(len(bank.names), dtype=torch.bool)
    for batch in judged_batches(bank, level, setting, rows, everywhere_K):
        places_B = batch.places_B
        labels_BT, mask_BT = rows.labels_nT[places_B], rows.mask_nT[places_B]
        columns = {"labels_nT": labels_BT, "mask_nT": mask_BT}
        if rows.user_n is not None:
            columns["user_n"] = rows.user_n[places_B]
        for who, logits_BT in (
            ("base", setting.heads(batch.h_BH).cpu()),
            ("candidate", batch.logits_BT.cpu()),
        ):
            losses_BT = task_losses(logits_BT, labels_BT, mask_BT, setting.tasks) * weights_T
            p = probabilities(logits_BT, setting.tasks)
            columns |= {
                f"{who}_loss_nT": losses_BT,
                f"{who}_own_nT": p.own_BT,
                f"{who}_entire_nT": p.entire_BT,
            }
        bounds = batch.segments.ends_P.tolist()
        parts.append(_by_name(bank.names[batch.present], bounds, columns))
    everywhere: list[list[dict[str, Judged]]] = [[] for _ in range(setting.worker.world)]
    dist.gather_object(parts, everywhere if setting.worker.rank == 0 else None)
    return _joined([part for parts in everywhere for part in parts])


def _by_name(
    names: Sequence[str], bounds: Sequence[int], columns: Mapping[str, Tensor]
) -> dict[str, Judged]:
    """Cut the columns of a batch into its kernels' rows."""
    starts = [0, *bounds]
    return {
        name: Judged(**{field: column[start:end].numpy() for field, column in columns.items()})
        for name, start, end in zip(names, starts, bounds, strict=False)
        if end > start
    }


def _joined(parts: Sequence[Mapping[str, Judged]]) -> dict[str, Judged]:
    """Every name's rows, one after the other."""
    by_name: dict[str, list[Judged]] = {}
    for part in parts:
        for name, judged in part.items():
            by_name.setdefault(name, []).append(judged)
    return {name: _end_to_end(held) for name, held in by_name.items()}


def _end_to_end(parts: Sequence[Judged]) -> Judged:
    """The parts as one; users are in all of them or in none."""
    columns: dict[str, Any] = {}
    for field in fields(Judged):
        arrays = [getattr(part, field.name) for part in parts]
        columns[field.name] = None if arrays[0] is None else np.concatenate(arrays)
    return Judged(**columns)
