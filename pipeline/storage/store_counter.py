"""Count the objects that this process reads from object stores and writes to them."""

import threading

from iak.schemas.traffic import Carried, StoreTraffic


class StoreCounter:
    """Counts from any number of threads."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._total = StoreTraffic()

    def count_read(self, size: int) -> None:
        """Count an object of so many bytes that was read."""
        self._count(StoreTraffic(read=Carried(files=1, bytes=size)))

    def count_written(self, size: int) -> None:
        """Count an object of so many bytes that was written."""
        self._count(StoreTraffic(written=Carried(files=1, bytes=size)))

    def _count(self, more: StoreTraffic) -> None:
        with self._lock:
            self._total += more

    def take(self) -> StoreTraffic:
        """Return what was counted since the last call, and begin again."""
        with self._lock:
            taken, self._total = self._total, StoreTraffic()
            return taken


OF_PROCESS = StoreCounter()
"""Counts all stores of this process, which are opened in many places."""
