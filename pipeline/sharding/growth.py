"""Fill a model that is larger than its published base: the origin of its rows and its inputs.

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
from iak.pipeline.sharding.frozen_tables import BUFFER_BYTES, ReadRows
from iak.schemas.feature import FIRST_ROW


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Parts of a model that start from other rows or units of the base than their own numbers."""

    rows: Mapping[str, RowOrigin | str] = field(default_factory=dict)
    """Table -> the base's row of each of its rows, or the reason why there is none."""
    inputs: InputOrigin | None = None
    """The base's unit of each unit of x; None where x is laid out as in the base."""


NO_GROWTH = Growth()
"""Of a model whose tables and inputs are those of its base."""


@torch.no_grad()
def read_grown(
    out_RW: Tensor, read: ReadRows, origin: RowOrigin, *, table: str, row: int, col: int
) -> None:
    """Fill the part of a grown table that begins at (row, col) from the base's table.

    Besides the part itself it takes one or two buffers of BUFFER_BYTES, for tables of any length.

    Args:
        out_RW: the part, overwritten in place.
        read: reads the base's tables.
        origin: the base's row of each row.
        table: name.
        row: first row of the part.
        col: first column of the part.
    """
    cols = out_RW.shape[1]
    # The rows of missing and unseen ids lie at the start of the table, far from the other origins.
    first_RW = torch.empty(min(FIRST_ROW, origin.rows_before), cols)
    read(first_RW, table=table, row=0, col=col)
    most = max(1, BUFFER_BYTES // (4 * max(1, cols)))
    buffer_RW = torch.empty(min(most, origin.rows_before), cols)

    def gather(to_RW: Tensor, from_R: Ids) -> None:
        ids_R = from_R[from_R >= FIRST_ROW]
        low, high = (int(ids_R.min()), int(ids_R.max()) + 1) if len(ids_R) else (0, 0)
        # Origins jump back to the first rows where a grown hash table repeats the old one.
        if high - low > len(buffer_RW):
            half = len(from_R) // 2
            gather(to_RW[:half], from_R[:half])
            gather(to_RW[half:], from_R[half:])
            return
        range_RW = buffer_RW[: high - low]
        read(range_RW, table=table, row=low, col=col)
        is_id = from_R >= FIRST_ROW
        _copy_rows(to_RW, is_id, range_RW, from_R - low)
        _copy_rows(to_RW, ~is_id, first_RW, from_R)

    for done in range(0, len(out_RW), most):
        part_RW = out_RW[done : done + most]
        rows_R = np.arange(row + done, row + done + len(part_RW), dtype=np.int64)
        gather(part_RW, origin.of(rows_R))


def _copy_rows(to_RW: Tensor, wanted_R: np.ndarray, source_RW: Tensor, from_R: Ids) -> None:
    """Copy row `from_R[r]` of a source to row r, for the rows r that are wanted."""
    (indices,) = np.nonzero(wanted_R)
    if len(indices) == len(to_RW) and to_RW.is_contiguous() and to_RW.device == source_RW.device:
        # The common case needs no copy in between.
        torch.index_select(source_RW, 0, torch.from_numpy(from_R), out=to_RW)
    elif len(indices):
        rows_RW = source_RW[torch.from_numpy(from_R[indices])]
        to_RW[torch.from_numpy(indices).to(to_RW.device)] = rows_RW.to(to_RW.device)
