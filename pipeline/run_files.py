"""Reach a run's files from a worker, on whatever machine it works.

The driver's machine has the run folder. Where every machine sees that folder, a worker reads and
writes it and sends nothing (`SharedDisk`). A worker of a machine with a disk of its own has a copy
of it there, and sends what it writes (storage/driver_disk.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class RunFiles(Protocol):
    """The files of a run, as a worker reaches them.

    A path is one of the worker's machine. It stands for the same file on the driver's.
    """

    @property
    def is_first(self) -> bool:
        """Return whether this worker acts for all workers of its machine."""
        ...

    def fetch(self, path: Path) -> None:
        """Give this machine a file or a folder as the driver's machine has it now."""
        ...

    def send(self, path: Path) -> None:
        """Replace a file or a folder of the driver's machine by this machine's, at once."""
        ...

    def merge(self, folder: Path) -> None:
        """Move this machine's files of a folder to the driver's folder of that name.

        The first worker of each machine does so. The files of all its workers must be whole.
        """
        ...

    def call_on_driver(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the driver's machine.

        Args:
            function: stands at the top of a module that loads no torch.
            arguments: plain values, and paths, which mean the driver's there.
        """
        ...


class SharedDisk:
    """Files that the driver and this worker see: nothing is sent."""

    def __init__(self, *, is_first: bool = False) -> None:
        """Say whether this worker acts for all workers of its machine."""
        self.is_first = is_first

    def fetch(self, path: Path) -> None:
        """Do nothing: the file is here."""

    def send(self, path: Path) -> None:
        """Do nothing: the driver sees the file."""

    def merge(self, folder: Path) -> None:
        """Do nothing: all workers wrote to one folder."""

    def call_on_driver(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function."""
        function(*arguments)


SHARED_DISK = SharedDisk()
