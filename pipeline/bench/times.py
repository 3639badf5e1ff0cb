"""Summarise seconds that a benchmark measured."""

from collections.abc import Sequence

import torch


def quantile(seconds: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated between the two nearest values.

    Args:
        seconds: measured values, at least one.
        share: the share of values below it, from 0 to 1.
    """
    return float(torch.tensor(seconds, dtype=torch.float64).quantile(share))
