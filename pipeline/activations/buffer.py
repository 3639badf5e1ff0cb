"""What kernels read of a row: the frozen base's output, standardised, computed at its first use.

A row stands as a = standardise([h ; x]); h itself is taken back from it. Rows are looked up in the
base by all workers together, a block of them at the first step that uses one, and are kept in
`ActivationBuffer`, in memory or in a file; what an earlier run has cached is there from the start.

Shapes: n rows of this worker, B of them, H base units, X embedding units, A = H + X units that the
encoder reads (H where it reads h alone).
"""

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from iak.pipeline.activations.represent import LOOK_UP_ROWS, represent
from iak.pipeline.activations.standardizer import Read, Standardizer
from iak.pipeline.collectives import greatest
from iak.pipeline.data import features
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.feature_keys import FeatureKeys
from iak.pipeline.errors import DoesNotFit
from iak.pipeline.process import Worker
from iak.pipeline.sharding.shard import unwrap
from iak.schemas.log import Catalog

_log = logging.getLogger(__name__)


class Activations(Protocol):
    """What kernels read of this worker's rows. A collective call: every worker makes it."""

    def of(self, places: Tensor) -> Read:
        """What is read of the rows at these places."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardizedBase:
    """The base as tuning meets it: encoded rows in, standardised activations out."""

    model: nn.Module
    catalog: Catalog
    standard: Standardizer
    device: torch.device
    dtype: torch.dtype = torch.float32
    """In which kernels read a row."""
    products: torch.dtype = torch.float32
    """Of the trunk, whose sums stay fp32."""

    @property
    def units(self) -> int:
        """H."""
        heads = unwrap(self.model).heads
        return heads.tasks * heads.width

    @property
    def width(self) -> int:
        """A."""
        return self.standard.width

    @torch.no_grad()
    def look_up(self, rows: pa.Table) -> Tensor:
        """The rows' standardised activations, all workers together."""
        batch = to_batch(rows, self.catalog).to(self.device)
        h_BH, x_BX = represent(self.model, batch, self.products)
        return self.standard.of(h_BH, x_BX)

    def read(self, a_BA: Tensor) -> Read:
        """Kept activations as kernels read them."""
        return self.standard.read(a_BA.to(self.device, self.dtype), self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Activations looked up in the sharded base each time, as precise as those that are kept."""

    base: StandardizedBase
    rows: pa.Table
    dtype: torch.dtype

    def of(self, places: Tensor) -> Read:
        """The rows through the frozen tables and trunk, all workers together."""
        a_BA = self.base.look_up(self.rows.take(pa.array(places.numpy())))
        return self.base.read(a_BA.to(self.dtype))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some rows of others, as if they were all."""

    whole: Activations
    places_n: Tensor
    """Where each one lies in the whole."""

    def of(self, places: Tensor) -> Read:
        """What is read of the rows at these places among the chosen."""
        return self.whole.of(self.places_n[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A block [first, stop) of an arena that nobody has computed yet, or not all of it."""

    first: int
    stop: int
    rows: pa.Table
    """Encoded: those that the base must be asked for, in order."""
    places_r: Tensor | None = None
    """Where each of them lies in the arena; None where they are the whole block."""
    keys: FeatureKeys | None = None
    """Keys of the whole block's rows, where they are to be kept for others."""

    def put(self, a_nA: Tensor, start: int, a_BA: Tensor) -> None:
        """Put the activations of rows that begin at `start` among the block's into the arena."""
        if self.places_r is None:
            first = self.first + start
            a_nA[first : first + len(a_BA)] = a_BA.to(a_nA)
            return
        places = self.places_r[start : start + len(a_BA)]
        a_nA[places.to(a_nA.device)] = a_BA.to(a_nA)


class ActivationBuffer:
    """Activations that are computed once: a block of rows when one of them is first used.

    Always by the same blocks, since a matrix product may round a row by where it stands among
    others: what is computed hangs on no step, and a resumed run sees what an uninterrupted one saw.
    """

    def __init__(
        self,
        *,
        a_nA: Tensor,
        absent: Sequence[Absent],
        base: StandardizedBase,
        worker: Worker,
        filled: Callable[[Absent, Tensor], None] = lambda _block, _a_BA: None,
    ) -> None:
        """Take memory whose rows are partly there.

        Args:
            a_nA: memory for every row, in the type in which rows are kept.
            absent: the blocks that it does not hold, in order.
            base: computes those.
            worker: this process.
            filled: called with a block that was computed, and its memory.
        """
        self.a_nA, self.base, self.worker, self.filled = a_nA, base, worker, filled
        self.absent: list[Absent | None] = list(absent)
        self.starts = torch.tensor([block.first for block in absent], dtype=torch.int64)
        self.stops = torch.tensor([block.stop for block in absent], dtype=torch.int64)
        self.is_whole = False

    def of(self, places: Tensor) -> Read:
        """The rows' activations; blocks that nobody has computed yet go through the base now."""
        if not self.is_whole:
            self._fill(self._needed(places))
        held = self.a_nA
        return self.base.read(held.index_select(0, places.to(held.device)))

    def complete(self) -> None:
        """Compute what no step has used: another run will."""
        if not self.is_whole:
            self._fill([index for index, block in enumerate(self.absent) if block is not None])

    def seen_by(self, base: StandardizedBase) -> "ActivationBuffer":
        """The same memory, as kernels on this base read it."""
        other = ActivationBuffer(
            a_nA=self.a_nA, absent=(), base=base, worker=self.worker, filled=self.filled
        )
        other.absent, other.starts, other.stops = self.absent, self.starts, self.stops
        return other

    def _needed(self, places: Tensor) -> list[int]:
        """The absent blocks in which these rows lie."""
        if not len(self.starts):
            return []
        at = torch.searchsorted(self.starts, places, right=True) - 1
        at = at[(at >= 0) & (places < self.stops[at])]
        return [index for index in at.unique().tolist() if self.absent[index] is not None]

    def _fill(self, needed: Sequence[int]) -> None:
        """Compute these blocks, in step with every other worker."""
        left = sum(block is not None for block in self.absent)
        pieces = [piece for index in needed for piece in self._pieces(index)]
        rounds, most_left = greatest((len(pieces), left), self.worker)
        self.is_whole = most_left == 0
        for index, start, rows in pieces:
            block = self.absent[index]
            assert block is not None
            block.put(self.a_nA, start, self.base.look_up(rows))
            if start + len(rows) == len(block.rows):
                self.absent[index] = None
                self.filled(block, self.a_nA[block.first : block.stop])
        for _ in range(rounds - len(pieces)):
            self.base.look_up(features.no_rows(self.base.catalog))

    def _pieces(self, index: int) -> Iterator[tuple[int, int, pa.Table]]:
        """A block by what goes through the base at a time: its number, first row, which rows."""
        block = self.absent[index]
        assert block is not None
        for start in range(0, len(block.rows), LOOK_UP_ROWS):
            yield index, start, block.rows.slice(start, LOOK_UP_ROWS)


def memory_for(
    rows: int, width: int, dtype: torch.dtype, *, spill: Path | None, device: torch.device
) -> Tensor:
    """Memory for activations: the device's own, or a file's, which goes with the process.

    Args:
        rows: n.
        width: A.
        dtype: how they are kept.
        spill: folder on a local disk, where they shall not lie in memory.
        device: where the base computes.
    """
    if spill is None or not rows:
        return torch.empty(rows, width, dtype=dtype, device=device)
    elements = rows * width
    path = _reserved(spill, elements * dtype.itemsize)
    held = torch.from_file(str(path), shared=True, size=elements, dtype=dtype)
    path.unlink()  # the mapping keeps the bytes as long as the tensor lives
    return held.view(rows, width)


def _reserved(spill: Path, num_bytes: int) -> Path:
    """Return a new file whose bytes the disk has set aside: writing to a mapping cannot fail then.

    Where the folder cannot be written, the file lies in the folder for temporary files.

    Raises:
        DoesNotFit: the disk is too full.
    """
    for folder in (spill, Path(tempfile.gettempdir())):
        path = folder / f".{os.getpid()}-{time.monotonic_ns()}.arena"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DoesNotFit(
                    f"activations take {num_bytes / 2**30:.1f} GiB in {folder}, and the disk has "
                    f"no room for them ({error.strerror}). Free some, choose another cache.folder, "
                    "or set activations=recompute"
                ) from error
            _log.warning("%s cannot hold activations (%s)", folder, error)
            continue
        return path
    raise DoesNotFit(
        f"neither {spill} nor {tempfile.gettempdir()} can hold activations; choose another "
        "cache.folder, or raise cache.memory_gib"
    )
