"""What a gate needs to judge kernels: their rows of the gate slice, under base and candidate.

Shapes: n rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

from pipeline.iak.bank import Bank
from pipeline.model.loss import probabilities, task_losses
from pipeline.training.rows import TuningRows
from pipeline.training.tune import Setting, judged_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a gate needs of one kernel: its rows on the gate slice, under base and candidate.

    The fields stand in the order in which `gate_rows` makes them.
    """

    base_loss: npt.NDArray[np.float64]
    candidate_loss: npt.NDArray[np.float64]
    labels_nT: npt.NDArray[np.float32]
    mask_nT: npt.NDArray[np.bool_]
    base_p_nT: npt.NDArray[np.float32]
    candidate_p_nT: npt.NDArray[np.float32]


@torch.no_grad()
def gate_rows(bank: Bank, level: int, setting: Setting, rows: TuningRows) -> dict[str, Judged]:
    """Every kernel's gate rows, gathered on worker 0; a collective call."""
    parts: list[dict[str, Judged]] = []
    weights_T = torch.tensor([t.weight for t in setting.tasks])
    everywhere_K = torch.ones(len(bank.names), dtype=torch.bool)
    for batch in judged_batches(bank, level, setting, rows, everywhere_K):
        places_B = batch.places_B
        before_BT, after_BT = setting.heads(batch.h_BH).cpu(), batch.logits_BT.cpu()
        labels_BT, mask_BT = rows.labels_nT[places_B], rows.mask_nT[places_B]
        losses = [
            (task_losses(logits_BT, labels_BT, mask_BT, setting.tasks) * weights_T).sum(1).double()
            for logits_BT in (before_BT, after_BT)
        ]
        p = [probabilities(x_BT, setting.tasks).entire_BT for x_BT in (before_BT, after_BT)]
        bounds = batch.segments.ends_P.tolist()
        parts.append(_by_name(bank.names[batch.present], bounds, (*losses, labels_BT, mask_BT, *p)))
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
