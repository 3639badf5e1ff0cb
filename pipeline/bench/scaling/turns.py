"""Groups of workers that live at the same time and compute one after the other.

So that 1 worker and 2 are measured slice by slice in turns: whatever else the machine does falls on
all of them alike.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed as dist

from iak.pipeline.process import Worker


class Turns:
    """Whose turn it is; handed to workers as they start."""

    def __init__(self, groups: int) -> None:
        """Nobody's turn, until `start`."""
        context = multiprocessing.get_context("spawn")
        self._gates = [context.Semaphore(0) for _ in range(groups)]
        self._is_over = context.Event()

    def start(self) -> None:
        """Let the first group begin."""
        self._gates[0].release()

    def stop(self) -> None:
        """Nobody takes another turn: who waits for one, or asks, is refused."""
        self._is_over.set()
        for gate in self._gates:
            gate.release()

    @contextmanager
    def turn(self, group: int, worker: Worker) -> Iterator[None]:
        """Wait for the others' turns, and hand on after one's own; a collective call of the group.

        Every group takes as many turns.

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
