"""Sums and maxima over all workers; with one worker, the values themselves.

Each is a collective call: every worker makes it, in the same order.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.process import Worker


def most(value: int, worker: Worker) -> int:
    """The largest of all workers' values."""
    return greatest((value,), worker)[0]


def greatest(values: tuple[int, ...], worker: Worker) -> tuple[int, ...]:
    """The largest of all workers' values, one by one."""
    if worker.world == 1:
        return values
    held = torch.tensor(values, device=worker.device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return tuple(held.tolist())


def total(values: Tensor, worker: Worker) -> Tensor:
    """The sum over workers, where `values` was."""
    if worker.world == 1:
        return values
    summed = values.clone().to(worker.device)
    dist.all_reduce(summed)
    return summed.to(values.device)
