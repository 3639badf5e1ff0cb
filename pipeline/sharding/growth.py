"""A model that is larger than a published base: where its rows and its inputs come from.

Shapes: R rows, W columns of a part of a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.data.ids import Ids
from iak.pipeline.model.inputs import InputOrigin
from iak.pipeline.sharding.frozen import BUFFER_BYTES, ReadRows
from iak.schemas.feature import FIRST_ROW


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What of a model starts from other places than its own."""

    rows: Mapping[str, RowOrigin | str] = field(default_factory=dict)
    """Table -> where its rows come from, or why they come from nowhere."""
    inputs: InputOrigin | None = None
    """Where the units of x come from, where they moved."""


@torch.no_grad()
def read_grown(
    out_RW: Tensor, read: ReadRows, origin: RowOrigin, *, table: str, row: int, col: int
) -> None:
    """Fill `out_RW`, the part of a grown table that starts at (row, col), from the table before.

    Beside it a buffer or two of BUFFER_BYTES are held, however long the tables are.
    """
    cols = out_RW.shape[1]
    first_RW = torch.empty(min(FIRST_ROW, origin.rows_before), cols)
    read(first_RW, table=table, row=0, col=col)
    most = max(1, BUFFER_BYTES // (4 * max(1, cols)))
    buffer_RW = torch.empty(min(most, origin.rows_before), cols)

    def gather(to_RW: Tensor, from_R: Ids) -> None:
        ids_R = from_R[from_R >= FIRST_ROW]
        low, high = (int(ids_R.min()), int(ids_R.max()) + 1) if len(ids_R) else (0, 0)
        if high - low > len(buffer_RW):  # as where a fold of a hash table ends
            half = len(from_R) // 2
            gather(to_RW[:half], from_R[:half])
            gather(to_RW[half:], from_R[half:])
            return
        held_RW = buffer_RW[: high - low]
        read(held_RW, table=table, row=low, col=col)
        is_id = from_R >= FIRST_ROW
        _place(to_RW, is_id, held_RW, from_R - low)
        _place(to_RW, ~is_id, first_RW, from_R)

    for done in range(0, len(out_RW), most):
        part_RW = out_RW[done : done + most]
        rows_R = np.arange(row + done, row + done + len(part_RW), dtype=np.int64)
        gather(part_RW, origin.of(rows_R))


def _place(to_RW: Tensor, where_R: np.ndarray, held_RW: Tensor, from_R: Ids) -> None:
    """Copy held rows to where they are wanted."""
    (places,) = np.nonzero(where_R)
    if len(places) == len(to_RW) and to_RW.is_contiguous() and to_RW.device == held_RW.device:
        torch.index_select(held_RW, 0, torch.from_numpy(from_R), out=to_RW)  # without a copy
    elif len(places):
        rows_RW = held_RW[torch.from_numpy(from_R[places])]
        to_RW[torch.from_numpy(places).to(to_RW.device)] = rows_RW.to(to_RW.device)
