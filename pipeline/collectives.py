"""Sums and maxima over all workers; with one worker, the values themselves.

Each is a collective call: every worker makes it, in the same order.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.process import Worker


def most(value: int, worker: Worker) -> int:
    """Return the largest of all workers' values."""
    return greatest((value,), worker)[0]


def greatest(values: tuple[int, ...], worker: Worker) -> tuple[int, ...]:
    """Return the largest of all workers' values, one by one."""
    if worker.world == 1:
        return values
    largest = torch.tensor(values, device=worker.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return tuple(largest.tolist())


def total(values: Tensor, worker: Worker) -> Tensor:
    """Return the sum of `values` over workers, on the device where `values` lie."""
    if worker.world == 1:
        return values
    summed = values.clone().to(worker.device)
    dist.all_reduce(summed)
    return summed.to(values.device)
