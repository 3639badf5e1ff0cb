"""Encoded rows -> Batch: what a model reads, as tensors.

The ids of B rows and F features are one KeyedJaggedTensor; feature f of row b holds
`lengths[f * B + b]` of its values, features one after the other:

              row 0      row 1    row 2
    item_id   [7]        [9]      [4]          values   7 9 4 | 3 5 5
    history   [3 5]      []       [5]          lengths  1 1 1 | 2 0 1

Arrow's buffers become tensors without a copy; laying the features end to end is the one copy.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as tensors. B rows, N dense inputs, T tasks."""

    ids: KeyedJaggedTensor
    numeric_BN: Tensor
    labels_BT: Tensor
    """0 or 1, and 0 where the mask is False."""
    mask_BT: Tensor
    """Whether the label counts."""

    @property
    def rows(self) -> int:
        """B."""
        return self.labels_BT.shape[0]

    def to(self, device: torch.device) -> "Batch":
        """The same rows on a device."""
        if device.type == "cpu":
            return self
        return Batch(
            ids=self.ids.to(device, non_blocking=True),
            numeric_BN=self.numeric_BN.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
            mask_BT=self.mask_BT.to(device, non_blocking=True),
        )


def to_batch(rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> Batch:
    """The batch of encoded rows."""
    labels, mask = _labels(rows, catalog)
    return Batch(
        ids=_jagged(rows, [f.name for f in catalog.keyed]),
        numeric_BN=_stacked([_floats(rows, f"n.{f.name}") for f in catalog.numeric], len(rows)),
        labels_BT=labels,
        mask_BT=mask,
    )


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _tensor(array: pa.Array) -> Tensor:
    """The array's own buffer as a tensor; Arrow's memory is shared and must not be written."""
    return torch.from_dlpack(array)


def _jagged(rows: pa.RecordBatch | pa.Table, names: list[str]) -> KeyedJaggedTensor:
    values, lengths = [], []
    ones = torch.ones(len(rows), dtype=torch.int32)
    for name in names:
        column = _column(rows, f"f.{name}")
        if pa.types.is_list(column.type):
            values.append(_tensor(column.flatten()))
            lengths.append(torch.from_numpy(np.diff(column.offsets.to_numpy())))
        else:
            values.append(_tensor(column))
            lengths.append(ones)
    return KeyedJaggedTensor(keys=names, values=torch.cat(values), lengths=torch.cat(lengths))


def _floats(rows: pa.RecordBatch | pa.Table, name: str) -> Tensor:
    return _tensor(_column(rows, name))


def _stacked(columns: list[Tensor], rows: int) -> Tensor:
    return torch.stack(columns, dim=1) if columns else torch.zeros(rows, 0)


def _labels(rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> tuple[Tensor, Tensor]:
    columns = [_column(rows, f"y.{t.title}") for t in catalog.tasks]
    mask = [torch.from_numpy(c.is_valid().to_numpy(zero_copy_only=False)) for c in columns]
    known = [c.fill_null(0.0).to_numpy(zero_copy_only=False) for c in columns]
    labels = [torch.from_numpy(values.copy()) for values in known]
    return torch.stack(labels, dim=1), torch.stack(mask, dim=1)
