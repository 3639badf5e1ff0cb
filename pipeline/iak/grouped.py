"""Compute matrix products in which each slot's rows have their own matrix.

Rows are sorted by slot, and `Segments` says where each slot's rows end. No row is padded, Python
loops over no slots, and a slot without rows costs an empty product.

Shapes: B rows, P slots, I inputs, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, linear, pad

_ALIGN_BYTES = 16
"""`grouped_mm` requires row strides that are multiples of this, on any device (torch 2.13)."""
_LONG_ROWS = 512
"""Rows of one slot above which they are cut into segments. The gradient of the weights is a product
over rows, and is a third faster in parts."""
_GROUPED = (torch.float32, torch.bfloat16, torch.float16)
"""Types that `grouped_mm` supports. float64, in which gradients are checked, goes slot by slot."""


@dataclass(frozen=True)
class Segments:
    """The end of each slot's rows, in rows that are sorted by slot."""

    ends_P: Tensor
    """Index after each slot's last row: int32, on the rows' device; the last one is B."""
    rows: int
    """B."""

    @classmethod
    def of(cls, lengths: Sequence[int] | Tensor, device: torch.device | None = None) -> "Segments":
        """Build segments from the number of rows of each slot.

        Args:
            lengths: rows of each slot, in order; 0 for a slot without any.
            device: device of the rows; the CPU when absent.
        """
        ends_P = torch.as_tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32)
        rows = int(ends_P[-1]) if len(ends_P) else 0
        return cls(ends_P=ends_P.to(device or torch.device("cpu")), rows=rows)

    @property
    def slots(self) -> int:
        """Return P, the number of slots."""
        return len(self.ends_P)

    @cached_property
    def lengths(self) -> Tensor:
        """Return the rows of each slot, (P,)."""
        return self.ends_P.diff(prepend=self.ends_P.new_zeros(1))

    @cached_property
    def owners(self) -> Tensor:
        """Return the slot of each row, (B,)."""
        slots_P = torch.arange(self.slots, device=self.ends_P.device)
        return slots_P.repeat_interleave(self.lengths, output_size=self.rows)

    @cached_property
    def cut(self) -> "Segments":
        """Return the rows of a single slot, cut into segments of `_LONG_ROWS`."""
        runs = -(-self.rows // _LONG_ROWS)
        ends = torch.arange(1, runs + 1, dtype=torch.int32, device=self.ends_P.device)
        return Segments(ends_P=(ends * _LONG_ROWS).clamp(max=self.rows), rows=self.rows)


def grouped_linear(x_BI: Tensor, w_POI: Tensor, b_PO: Tensor | None, rows: Segments) -> Tensor:
    """Return w[p] x[b] + b[p] for each row b of each slot p.

    Args:
        x_BI: rows, sorted by slot.
        w_POI: a matrix per slot.
        b_PO: a bias per slot; None for none.
        rows: end of each slot's rows.
    """
    if rows.slots == 1 and (rows.rows <= _LONG_ROWS or x_BI.dtype not in _GROUPED):
        return linear(x_BI, w_POI[0], None if b_PO is None else b_PO[0])
    if rows.slots == 1:
        y_BO = grouped_linear(x_BI, w_POI.expand(rows.cut.slots, -1, -1), None, rows.cut)
        return y_BO if b_PO is None else y_BO + b_PO
    if x_BI.dtype not in _GROUPED:
        parts = zip(x_BI.split(rows.lengths.tolist()), w_POI, strict=True)
        y_BO = torch.cat([x @ w.t() for x, w in parts])
        return y_BO if b_PO is None else y_BO + spread(b_PO, rows)
    # Zeros up to the alignment that grouped_mm requires; the extra outputs are dropped below.
    inputs, outputs = (-(-size // _per_row(x_BI)) * _per_row(x_BI) for size in w_POI.shape[:0:-1])
    x_BI, w_POI = _widened(x_BI, inputs), _widened(w_POI, inputs)
    missing = outputs - w_POI.shape[1]
    w_POI = pad(w_POI, (0, 0, 0, missing)) if missing else w_POI
    y_BO = grouped_mm(x_BI, w_POI.transpose(1, 2), offs=rows.ends_P)
    y_BO = y_BO[:, : outputs - missing] if missing else y_BO
    return y_BO if b_PO is None else y_BO + spread(b_PO, rows)


def spread(values_P: Tensor, rows: Segments) -> Tensor:
    """Repeat each slot's value for each of its rows; further dimensions stay.

    With one slot the result is a view, in which all rows share memory.
    """
    if rows.slots == 1:
        return values_P.expand(rows.rows, *values_P.shape[1:])
    return values_P.index_select(0, rows.owners)


def slot_sums(values_B: Tensor, rows: Segments) -> Tensor:
    """Sum values over each slot's rows; further dimensions stay."""
    sums = values_B.new_zeros((rows.slots, *values_B.shape[1:]))
    return sums.index_add_(0, rows.owners, values_B)


def _per_row(x: Tensor) -> int:
    """Return the number of elements of which a row's length must be a multiple."""
    return max(1, _ALIGN_BYTES // x.element_size())


def _widened(x: Tensor, width: int) -> Tensor:
    """Pad the last dimension with zeros, up to `width`."""
    missing = width - x.shape[-1]
    return pad(x, (0, missing)) if missing else x
