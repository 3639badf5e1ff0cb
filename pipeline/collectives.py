"""Collect values, sums and maxima of all workers. With one worker they are the values themselves.

Each is a collective call: every worker makes it, in the same order.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.process import Worker

T = TypeVar("T")


def most(value: int, worker: Worker) -> int:
    """Return the largest of all workers' values; a collective call."""
    return greatest((value,), worker)[0]


def greatest(values: tuple[int, ...], worker: Worker) -> tuple[int, ...]:
    """Return the largest of all workers' values, element by element; a collective call.

    Args:
        values: this worker's values, the same number on every worker.
        worker: this process.
    """
    if worker.world == 1:
        return values
    largest = torch.tensor(values, device=worker.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return tuple(largest.tolist())


def gathered(value: T, worker: Worker) -> list[T]:
    """Return the value of each worker, in the order of workers; a collective call.

    Args:
        value: this worker's value, which is pickled on its way.
        worker: this process.
    """
    if worker.world == 1:
        return [value]
    values: list[T | None] = [None] * worker.world
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def total_counts(counts: Mapping[str, int], worker: Worker) -> Counter[str]:
    """Return the sum over workers of each name's count; a collective call.

    Args:
        counts: this worker's counts, by names that need not be the same on every worker.
        worker: this process.
    """
    summed: Counter[str] = Counter()
    for part in gathered(dict(counts), worker):
        summed.update(part)
    return summed


def total(values: Tensor, worker: Worker) -> Tensor:
    """Return the sum over workers, on the device of `values`; a collective call.

    Args:
        values: tensors, of the same shape and type on every worker. They are not changed.
        worker: this process.
    """
    if worker.world == 1:
        return values
    # The backend reduces tensors of the worker's device alone: NCCL takes none of a CPU.
    summed = values.clone().to(worker.device)
    dist.all_reduce(summed)
    return summed.to(values.device)
