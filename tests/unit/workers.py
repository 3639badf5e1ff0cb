"""Workers as threads of this process, for laws over any number of them; collectives are faked.

torch's gloo groups need a process a worker, which takes seconds to start. Here a call of
`torch.distributed` meets at a barrier, and reads what the other threads have brought.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist

from iak.pipeline.process import Worker

CPU = torch.device("cpu")
WAIT_S = 240.0
"""After which a worker whose peers do not come gives up; no sound test waits for it."""


def on_threads(run: Callable[[Worker], Any], world: int) -> list[Any]:
    """Call `run(worker)` on `world` threads, and return what each gave, by rank.

    Raises:
        Exception: the first error of a worker, by rank. Workers that wait for it are let go.
    """
    group = _Group(world)
    results: list[Any] = [None] * world
    errors: list[Exception | None] = [None] * world

    def work(rank: int) -> None:
        group.own.rank = rank
        try:
            results[rank] = run(Worker(rank=rank, world=world, device=CPU))
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors[rank] = error
            group.meeting.abort()

    with group.instead_of_torchs():
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    raised = [error for error in errors if error is not None]
    own = [error for error in raised if not isinstance(error, threading.BrokenBarrierError)]
    for error in [*own, *raised]:
        raise error
    return results


def outcomes(run: Callable[[Worker], Any], world: int) -> list[Any]:
    """As `on_threads`, where a worker's error is its result, and the others go on."""

    def caught(worker: Worker) -> Any:
        try:
            return run(worker)
        except Exception as error:  # noqa: BLE001 - the result
            return error

    return on_threads(caught, world)


class _Group:
    """What `torch.distributed` offers, among the threads of one process."""

    def __init__(self, world: int) -> None:
        self.meeting = threading.Barrier(world, timeout=WAIT_S)
        self.own = threading.local()
        self.brought: list[Any] = [None] * world

    def instead_of_torchs(self) -> ExitStack:
        stack = ExitStack()
        for name in (
            "all_reduce", "all_gather_object", "gather_object", "all_to_all_single", "barrier",
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(dist, name, getattr(self, name)))
        return stack

    def _share(self, mine: Any) -> list[Any]:
        """Return what every rank brought to this call, by rank."""
        self.brought[self.own.rank] = mine
        self.meeting.wait()
        everything = list(self.brought)
        self.meeting.wait()  # nobody brings the next call's before all have read this one's
        return everything

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        stacked = torch.stack(self._share(tensor.clone()))
        tensor.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))

    def all_gather_object(self, into: list[Any], mine: Any) -> None:
        into[:] = self._share(mine)

    def gather_object(self, mine: Any, into: list[Any] | None = None) -> None:
        everything = self._share(mine)
        assert (into is not None) == (self.own.rank == 0), "the lists are rank 0's alone"
        if into is not None:
            into[:] = everything

    def all_to_all_single(
        self,
        output: torch.Tensor,
        sent: torch.Tensor,
        output_sizes: list[int] | None = None,
        input_sizes: list[int] | None = None,
    ) -> None:
        world = len(self.brought)
        sizes = [len(sent) // world] * world if input_sizes is None else input_sizes
        theirs = [parts[self.own.rank] for parts in self._share(sent.clone().split(sizes))]
        if output_sizes is not None:
            assert [len(part) for part in theirs] == output_sizes, "as many as were expected"
        torch.cat(theirs, out=output)

    def barrier(self) -> None:
        self._share(None)
