"""Draw ids: uniform over a table, or by Zipf's law, where a few ids are frequent."""

import math

import torch
from torch import Tensor

_SPREAD = 2654435761  # prime: multiplied by it, Zipf's ranks scatter over the rows


def drawn(law: str, count: int, rows: int, draw: torch.Generator) -> Tensor:
    """Draw row numbers: uniform, or with a chance of 1 / rank (Zipf 1949), ranks scattered."""
    if law == "uniform":
        return torch.randint(0, rows, (count,), generator=draw)
    u_I = torch.rand(count, generator=draw, dtype=torch.float64)
    rank_I = ((u_I * math.log(rows + 1)).exp() - 1).long().clamp(max=rows - 1)
    return rank_I * _SPREAD % rows
