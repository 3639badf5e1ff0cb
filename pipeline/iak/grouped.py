"""Matrix products in which each run of rows has its own matrix.

Rows are sorted by slot; `bounds` holds where each slot's rows end. No row is padded, and a slot
without rows costs an empty product.

Shapes: B rows, P slots, I inputs, O outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def grouped_linear(
    x_BI: Tensor, w_POI: Tensor, b_PO: Tensor | None, bounds: Sequence[int]
) -> Tensor:
    """Row b of slot p becomes w[p] x[b] + b[p]."""
    parts = x_BI.split(_lengths(bounds))
    products = [x.matmul(w.t()) for x, w in zip(parts, w_POI.unbind(0), strict=True)]
    y_BO = torch.cat(products)
    return y_BO if b_PO is None else y_BO + spread(b_PO, bounds)


def spread(values_P: Tensor, bounds: Sequence[int]) -> Tensor:
    """Each slot's value, repeated for each of its rows."""
    lengths = torch.tensor(_lengths(bounds), device=values_P.device)
    return values_P.repeat_interleave(lengths, dim=0, output_size=bounds[-1])


def slot_sums(values_B: Tensor, bounds: Sequence[int]) -> Tensor:
    """Sum over each slot's rows; further dimensions stay."""
    lengths = torch.tensor(_lengths(bounds), device=values_B.device)
    slot_B = torch.arange(len(bounds), device=values_B.device).repeat_interleave(lengths)
    sums = values_B.new_zeros((len(bounds), *values_B.shape[1:]))
    return sums.index_add_(0, slot_B, values_B)


def _lengths(bounds: Sequence[int]) -> list[int]:
    return [end - start for start, end in zip([0, *bounds], bounds, strict=False)]
