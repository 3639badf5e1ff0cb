"""The noise of the code, as a pure function of (seed, domain, epoch, row, phase).

However rows are spread over workers, steps or restarts, a row meets the same noise: that is what
lets two workers with half a batch each equal one worker with the whole.

Shapes: B rows, C code units.
"""

import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

from iak.pipeline.model.tables import mix64

Phase = Literal["compression", "matching"]
_STRIDE = -7046029254386353131
_LOW = (1 << 32) - 1


def stream(*, seed: int, domain: str, epoch: int, phase: Phase) -> int:
    """The key under which a domain's rows draw in one epoch of one phase."""
    text = f"{seed}/{domain}/{epoch}/{phase}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)


def uniform(keys_B: Tensor, units: int) -> Tensor:
    """(B, units) numbers in (0, 1), float64, from int64 keys."""
    bits_BC = _bits(keys_B, units)
    return ((bits_BC >> 11 & ((1 << 53) - 1)).to(torch.float64) + 0.5) * 2.0**-53


def gaussian(rows_B: Tensor, streams_B: Tensor, code: int) -> Tensor:
    """Standard normal noise_BC in float32 for rows with these identities, in these streams.

    Two uniform numbers of 32 bits make two normal ones, the largest 6.8 deviations away.
    Source: Box and Muller 1958, both of whose normals are used.
    """
    bits_BC = _bits(rows_B ^ streams_B, -(-code // 2))
    high_BC, low_BC = bits_BC >> 32 & _LOW, bits_BC & _LOW
    radius = (-2.0 * ((high_BC + 1).to(torch.float32) * 2.0**-32).log()).clamp(min=0).sqrt()
    angle = low_BC.to(torch.float32) * (2.0 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :code]


def steps_of(rows_B: Tensor, streams_B: Tensor, steps_B: Tensor) -> Tensor:
    """The step at which each row is used, uniform on 0 .. steps - 1.

    A row's step depends on nothing but its identity and stream: every worker knows which of its
    rows a step uses without asking, each row is used once an epoch, and a step's batch is the same
    set of rows whatever the number of workers. Batch sizes vary as Poisson's do.
    """
    u_B = uniform(rows_B ^ mix64(streams_B), 1).squeeze(1)
    return torch.minimum((u_B * steps_B).to(torch.int64), steps_B - 1)


def _bits(keys_B: Tensor, units: int) -> Tensor:
    """(B, units) words of 64 random bits."""
    unit_C = torch.arange(1, units + 1, dtype=torch.int64, device=keys_B.device) * _STRIDE
    return mix64(mix64(keys_B)[:, None] ^ unit_C)
