"""Draw the noise of the code as a pure function of (seed, domain, epoch, row, phase).

A row gets the same noise however rows are spread over workers, steps or restarts. Two workers with
half a batch each therefore compute what one worker computes with the whole batch.

Shapes: B rows, C code units.
"""

import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

from iak.pipeline.model.tables import mix64

Phase = Literal["compression", "matching"]
_STRIDE = -7046029254386353131  # 0x9E3779B97F4A7C15, splitmix64's increment, as int64
_LOW = (1 << 32) - 1


def stream(*, seed: int, domain: str, epoch: int, phase: Phase) -> int:
    """Return the key under which a domain's rows draw noise in one epoch of one phase."""
    text = f"{seed}/{domain}/{epoch}/{phase}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)


def uniform(keys_B: Tensor, units: int) -> Tensor:
    """Draw (B, units) numbers in (0, 1), in float64, from int64 keys."""
    bits_BC = _bits(keys_B, units)
    # The upper 53 bits, as many as a mantissa has; the half keeps 0 out.
    return ((bits_BC >> 11 & ((1 << 53) - 1)).to(torch.float64) + 0.5) * 2.0**-53


def gaussian(rows_B: Tensor, streams_B: Tensor, code: int) -> Tensor:
    """Draw standard normal noise_BC in float32.

    Two uniform numbers of 32 bits make two normal ones. The largest is 6.8 deviations from 0.
    Source: Box and Muller 1958; both normals of a pair are used.

    Args:
        rows_B: identity of each row in the log, int64.
        streams_B: key of each row's domain, epoch and phase, from `stream`.
        code: C, numbers per row.
    """
    bits_BC = _bits(rows_B ^ streams_B, -(-code // 2))
    high_BC, low_BC = bits_BC >> 32 & _LOW, bits_BC & _LOW
    # + 1 keeps 0 out of the logarithm; the clamp keeps a rounded -log below 0 out of the root.
    radius = (-2.0 * ((high_BC + 1).to(torch.float32) * 2.0**-32).log()).clamp(min=0).sqrt()
    angle = low_BC.to(torch.float32) * (2.0 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :code]


def steps_of(rows_B: Tensor, streams_B: Tensor, steps_B: Tensor) -> Tensor:
    """Draw the step at which each row is used, uniform on 0 .. steps - 1.

    A row's step depends only on its identity and its stream. So every worker knows the rows of a
    step without communication. Each row is used once per epoch. A step's batch is the same set of
    rows for any number of workers. Batch sizes vary like a Poisson number.

    Args:
        rows_B: identity of each row in the log, int64.
        streams_B: key of each row's domain, epoch and phase, from `stream`.
        steps_B: steps of each row's domain in the epoch, at least 1.
    """
    u_B = uniform(rows_B ^ mix64(streams_B), 1).squeeze(1)
    # The product may round up to steps_B itself, where u_B is nearly 1.
    return torch.minimum((u_B * steps_B).to(torch.int64), steps_B - 1)


def _bits(keys_B: Tensor, units: int) -> Tensor:
    """Draw (B, units) words of 64 random bits, a function of the key and the unit alone."""
    unit_C = torch.arange(1, units + 1, dtype=torch.int64, device=keys_B.device) * _STRIDE
    return mix64(mix64(keys_B)[:, None] ^ unit_C)
