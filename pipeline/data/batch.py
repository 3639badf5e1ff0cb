"""Turn encoded rows into a `Batch`: the tensors that a model reads.

The ids of B rows and F features are one KeyedJaggedTensor; feature f of row b holds
`lengths[f * B + b]` of its values, features one after the other:

              row 0      row 1    row 2
    item_id   [7]        [9]      [4]          values   7 9 4 | 3 5 5
    history   [3 5]      []       [5]          lengths  1 1 1 | 2 0 1

Arrow's buffers become tensors without a copy. Ids that were encoded together are contiguous
already. Ids of rows that were selected or joined later are made contiguous, which is the one copy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch import Tensor

from iak.pipeline.data import given
from iak.schemas.log import Catalog

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

FULL_ROWS = 32
"""A row's result does not depend on its batch where batches have a multiple of so many rows.

Vector instructions round the last few values of a tensor otherwise than the others (torch 2.13),
and products of few rows take another path (iak/pipeline/model/batch_invariant.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as tensors. B rows, N dense inputs, T tasks."""

    ids: "KeyedJaggedTensor"
    numeric_BN: Tensor
    """Dense inputs in declared order; then the activations and the logits of a given base."""
    labels_BT: Tensor
    """0 or 1, and 0 where the mask is False."""
    mask_BT: Tensor
    """Whether the label counts."""

    @property
    def rows(self) -> int:
        """Return the number of rows, B."""
        return self.labels_BT.shape[0]

    def to(self, device: torch.device) -> "Batch":
        """Return the same rows on a device; on a CPU, the batch itself."""
        if device.type == "cpu":
            return self
        return Batch(
            ids=self.ids.to(device, non_blocking=True),
            numeric_BN=self.numeric_BN.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
            mask_BT=self.mask_BT.to(device, non_blocking=True),
        )


def to_batch(rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> Batch:
    """Return encoded rows as tensors.

    Args:
        rows: encoded rows from `features.encode`, also selected or joined ones.
        catalog: the log's catalogue; it names the features and tasks in their order.
    """
    if isinstance(rows, pa.Table) and len(parts := rows.to_batches()) == 1:
        rows = parts[0]
    labels, mask = labels_of(rows, catalog)
    return Batch(
        ids=_jagged(rows, [f.name for f in catalog.keyed]),
        numeric_BN=_dense(rows, catalog),
        labels_BT=labels,
        mask_BT=mask,
    )


def filled_up(rows: pa.Table) -> pa.Table:
    """Return encoded rows and, after them, copies of the last one up to a multiple of `FULL_ROWS`.

    Args:
        rows: encoded rows; without any, none are added.
    """
    missing = -len(rows) % FULL_ROWS
    if not len(rows) or not missing:
        return rows
    last = [len(rows) - 1] * missing
    return rows.take(pa.array([*range(len(rows)), *last]))


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _tensor(array: pa.Array) -> Tensor:
    """Return the array's own buffer as a tensor. The memory is Arrow's and must not be written."""
    return torch.from_dlpack(array)


def _jagged(rows: pa.RecordBatch | pa.Table, names: list[str]) -> "KeyedJaggedTensor":
    """Return the ids of these features, feature after feature."""
    # TorchRec takes seconds to import. A command that leaves its rows to workers needs none of it.
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    values = []
    # A feature that is not a list has one id in each row.
    lengths_FB = torch.ones(len(names), len(rows), dtype=torch.int32)
    for index, name in enumerate(names):
        column = _column(rows, f"f.{name}")
        if pa.types.is_list(column.type):
            ends = _tensor(column.offsets)
            torch.sub(ends[1:], ends[:-1], out=lengths_FB[index])
            column = column.flatten()
        values.append(column)
    return KeyedJaggedTensor(keys=names, values=_contiguous(values), lengths=lengths_FB.view(-1))


def _dense(rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> Tensor:
    """Return the dense inputs of the rows, (B, N)."""
    numbers = [_tensor(_column(rows, f"n.{name}")) for name in catalog.number_names]
    numeric_BN = _stacked(numbers, len(rows))
    if catalog.columns_base is None:
        return numeric_BN
    logits = [
        _tensor(_column(rows, f"{given.LOGIT}{task}")) for task in catalog.columns_base.logits
    ]
    parts = [numeric_BN, _stacked(logits, len(rows))]
    if catalog.columns_base.units is not None:
        h_BU = _tensor(_column(rows, given.H).flatten()).view(len(rows), catalog.columns_base.units)
        parts.insert(1, h_BU)
    return torch.cat(parts, dim=1)


def _contiguous(parts: list[pa.Array]) -> Tensor:
    """Return the parts as one tensor; without a copy where they are neighbours in one buffer."""
    if not parts:
        return torch.empty(0, dtype=torch.int64)
    buffers = [part.buffers()[1] for part in parts]
    ends = [part.offset + len(part) for part in parts]
    are_neighbours = all(
        buffer is not None and buffer.address == buffers[0].address for buffer in buffers
    ) and all(end == part.offset for end, part in zip(ends, parts[1:], strict=False))
    if not are_neighbours:
        return torch.cat([_tensor(part) for part in parts])
    start = parts[0].offset
    whole = pa.Array.from_buffers(pa.int64(), ends[-1] - start, [None, buffers[0]], offset=start)
    return _tensor(whole)


def _stacked(columns: list[Tensor], rows: int) -> Tensor:
    stacked_BN = torch.empty(rows, len(columns))
    for index, column in enumerate(columns):
        stacked_BN[:, index] = column
    return stacked_BN


def labels_of(rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> tuple[Tensor, Tensor]:
    """Return the labels of encoded rows and their mask, `labels_BT` and `mask_BT`.

    A masked label is 0.
    """
    columns = [_column(rows, f"y.{t.title}") for t in catalog.tasks]
    labels_BT = torch.empty(len(rows), len(columns))
    mask_BT = torch.ones(len(rows), len(columns), dtype=torch.bool)
    for task, column in enumerate(columns):
        if column.null_count:
            mask_BT[:, task] = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False))
        labels_BT[:, task] = _tensor(column.fill_null(0.0) if column.null_count else column)
    return labels_BT, mask_BT
