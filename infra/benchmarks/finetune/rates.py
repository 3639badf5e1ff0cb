"""Measure the rates of each worker while all of them compute: products and memory traffic."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed as dist

from iak.pipeline.process import Worker

_ROUNDS = 5
_PRODUCT = (4096, 1024, 1024)
_COPIED_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of one worker, the best of a few rounds."""

    flops_per_s: float
    bytes_per_s: float


def rates_on_worker(worker: Worker) -> Rates:
    """Measure on all workers at once, since they share the machine; return the slowest's rates."""
    rows, inner, outer = _PRODUCT
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    flops = 2 * rows * inner * outer / _best(lambda: left @ right)
    source, target = torch.ones(_COPIED_ELEMENTS), torch.empty(_COPIED_ELEMENTS)
    num_bytes = 2 * source.numel() * source.element_size() / _best(lambda: target.copy_(source))
    slowest = torch.tensor([flops, num_bytes], dtype=torch.float64, device=worker.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MIN)
    return Rates(flops_per_s=float(slowest[0]), bytes_per_s=float(slowest[1]))


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        dist.barrier()
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
