"""Let groups of workers live at the same time and compute one after the other.

So 1 worker and 2 workers are measured slice by slice, in turns. Other work on the machine slows all
of them alike.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed as dist

from iak.pipeline.process import Worker


class Turns:
    """The turn of the groups, shared by all workers."""

    def __init__(self, groups: int) -> None:
        """Begin with no group's turn, until `start`."""
        context = multiprocessing.get_context("spawn")
        self._gates = [context.Semaphore(0) for _ in range(groups)]
        self._is_over = context.Event()

    def start(self) -> None:
        """Let the first group begin."""
        self._gates[0].release()

    def stop(self) -> None:
        """End all turns. A group that waits for one now or later gets an error."""
        self._is_over.set()
        for gate in self._gates:
            gate.release()

    @contextmanager
    def turn(self, group: int, worker: Worker) -> Iterator[None]:
        """Wait for this group's turn, and pass it on afterwards; a collective call of the group.

        Every group takes the same number of turns.

        Raises:
            RuntimeError: another group has failed.
        """
        if worker.rank == 0:
            self._gates[group].acquire()
        dist.barrier()
        if self._is_over.is_set():
            raise RuntimeError("another group of workers has failed; its error comes first")
        yield
        dist.barrier()
        if worker.rank == 0:
            self._gates[(group + 1) % len(self._gates)].release()
