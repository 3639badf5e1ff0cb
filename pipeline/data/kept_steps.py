"""Read the same rows in equal steps again and again, and decode them once where they are few.

A validation split has a small slice of every row group. To read it, all row groups are decoded. So
a run that validates several times would decode the log as many times as it validates.
"""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from iak.pipeline.data.reader import Reader
from iak.schemas.log import Catalog

KEPT_BYTES = 128 * 2**20
"""Most bytes of encoded rows that a worker keeps in memory."""


class RowsInSteps(Protocol):
    """One worker's rows, in as many steps as every worker has."""

    @property
    def catalog(self) -> Catalog:
        """Return the log's catalogue."""
        ...

    def steps(self, batch_rows: int) -> int:
        """Return the steps of a pass, the same number for each worker."""
        ...

    def in_step(self, batch_rows: int) -> Iterator[pa.Table]:
        """Yield the encoded rows in `steps(batch_rows)` tables; see `Reader.in_step`."""
        ...


class KeptSteps:
    """The rows of a reader: from the log in the first pass, from memory afterwards.

    Rows that take more than `most_bytes` are read from the log in every pass.
    """

    def __init__(self, reader: Reader, *, most_bytes: int = KEPT_BYTES) -> None:
        """Keep nothing yet.

        Args:
            reader: reads this worker's rows.
            most_bytes: most bytes of encoded rows that are kept.
        """
        self.reader, self.most_bytes = reader, most_bytes
        self._kept: dict[int, tuple[pa.Table, ...]] = {}

    @property
    def catalog(self) -> Catalog:
        """Return the log's catalogue."""
        return self.reader.catalog

    def steps(self, batch_rows: int) -> int:
        """Return the steps of a pass, the same number for each worker."""
        return self.reader.steps(batch_rows)

    def in_step(self, batch_rows: int) -> Iterator[pa.Table]:
        """Yield the rows in `steps(batch_rows)` tables, the same ones in every pass."""
        if batch_rows in self._kept:
            yield from self._kept[batch_rows]
            return
        passed: list[pa.Table] = []
        num_bytes = 0
        for number, table in enumerate(self.reader.in_step(batch_rows), start=1):
            num_bytes += table.nbytes
            if num_bytes <= self.most_bytes:
                passed.append(table)
            else:
                passed.clear()
            # Before the last table is yielded: a caller that counts steps asks for no more.
            if number == len(passed) == self.steps(batch_rows):
                self._kept = {batch_rows: tuple(passed)}
            yield table
