"""Compute what kernels read of a row, the frozen base's standardised output, at its first use.

A row is stored as a = standardise([h ; x]), from which h is computed back. All workers look rows up
in the base together: a whole block, at the first step that uses one of its rows.
`ActivationBuffer` stores activations in memory or in a file. It starts with those that the cache
has from earlier runs.

Shapes: n rows of this worker, B of them, r rows of a block, H base units, X embedding units,
A = H + X units that the encoder reads (H where it reads h alone).
"""

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from iak.pipeline.activations.represent import LOOK_UP_ROWS, represent_rows
from iak.pipeline.activations.standardizer import KernelInputs, Standardizer
from iak.pipeline.collectives import greatest
from iak.pipeline.data import features
from iak.pipeline.data.feature_keys import FeatureKeys
from iak.pipeline.errors import DoesNotFit
from iak.pipeline.model.protocol import unwrap_frozen
from iak.pipeline.process import Worker
from iak.schemas.log import Catalog

_log = logging.getLogger(__name__)


class Activations(Protocol):
    """What kernels read of this worker's rows."""

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return what kernels read of these rows; a collective call.

        Args:
            index_B: indices of this worker's rows, in any order.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardizedBase:
    """The base as tuning sees it: encoded rows in, standardised activations out."""

    model: nn.Module
    catalog: Catalog
    standard: Standardizer
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Type in which kernels read a row."""
    products: torch.dtype = torch.float32
    """Type of the trunk's matrix products, whose sums stay fp32."""

    @property
    def units(self) -> int:
        """Return H, the base units of all tasks."""
        return unwrap_frozen(self.model).heads.units

    @property
    def width(self) -> int:
        """Return A, the units that the encoder reads."""
        return self.standard.width

    @torch.no_grad()
    def look_up(self, rows: pa.Table) -> Tensor:
        """Return the standardised activations of encoded rows, a_BA; a collective call."""
        h_BH, x_BX = represent_rows(
            self.model, rows, self.catalog, products=self.products, device=self.device
        )
        # `represent_rows` also returns the rows that fill the batch up; they come last.
        return self.standard.of(h_BH, x_BX)[: len(rows)]

    def read(self, a_BA: Tensor) -> KernelInputs:
        """Return stored activations as kernels read them."""
        return self.standard.read(a_BA.to(self.device, self.dtype), self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Activations that are looked up in the sharded base each time, rounded like stored ones."""

    base: StandardizedBase
    rows: pa.Table
    """This worker's rows, encoded."""
    dtype: torch.dtype
    """Type in which they would be stored."""

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return the rows' activations from the frozen tables and trunk; a collective call."""
        a_BA = self.base.look_up(self.rows.take(pa.array(index_B.numpy())))
        # Rounded as the buffer rounds, so that kernels come out the same with or without one.
        return self.base.read(a_BA.to(self.dtype))


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Some of this worker's rows, numbered as if there were no others."""

    whole: Activations
    index_n: Tensor
    """Index of each chosen row among all rows."""

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return what kernels read of some of the chosen rows; a collective call."""
        return self.whole.of(self.index_n[index_B])


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingBlock:
    """A block [first, stop) of a buffer's rows, some or all of which are not computed yet."""

    first: int
    stop: int
    rows: pa.Table
    """The r rows to compute, encoded, in order."""
    index_r: Tensor | None = None
    """Index of each of them in the buffer; None where they are the whole block."""
    keys: FeatureKeys | None = None
    """Keys of the whole block's rows; None where the cache does not store them."""

    def put(self, a_nA: Tensor, start: int, a_BA: Tensor) -> None:
        """Write the activations of some of the block's rows into the buffer.

        Args:
            a_nA: the buffer's memory.
            start: number of the first of them among the r rows to compute.
            a_BA: their activations, in any type.
        """
        if self.index_r is None:
            first = self.first + start
            a_nA[first : first + len(a_BA)] = a_BA.to(a_nA)
            return
        index_B = self.index_r[start : start + len(a_BA)]
        a_nA[index_B.to(a_nA.device)] = a_BA.to(a_nA)


class ActivationBuffer:
    """Activations that are computed once: a block of rows when one of them is first used.

    Rows are always computed in the same blocks, and by products that round a row the same in every
    batch. So the result does not depend on the step that needs it, and a resumed run reads what an
    uninterrupted one read.
    """

    def __init__(
        self,
        *,
        a_nA: Tensor,
        missing: Sequence[MissingBlock],
        base: StandardizedBase,
        worker: Worker,
        on_computed: Callable[[MissingBlock, Tensor], None] = lambda _block, _a_BA: None,
    ) -> None:
        """Use memory in which some rows are present already.

        Args:
            a_nA: memory for every row, in the type in which rows are stored.
            missing: blocks with rows that are not present, in order.
            base: computes these.
            worker: this process.
            on_computed: called with a block that was computed, and all its activations.
        """
        self.a_nA, self.base, self.worker, self.on_computed = a_nA, base, worker, on_computed
        self.missing: list[MissingBlock | None] = list(missing)
        self.starts = torch.tensor([block.first for block in missing], dtype=torch.int64)
        self.stops = torch.tensor([block.stop for block in missing], dtype=torch.int64)
        self.is_whole = False
        self._on_rows: Callable[[int], None] = lambda _: None

    @property
    def missing_rows(self) -> int:
        """Return the rows that are not computed yet."""
        return sum(len(block.rows) for block in self.missing if block is not None)

    def watch(self, on_rows: Callable[[int], None]) -> None:
        """Call a function with the number of rows that were computed, each time some were."""
        self._on_rows = on_rows

    def of(self, index_B: Tensor) -> KernelInputs:
        """Return the rows' activations, after their missing blocks are computed.

        A collective call, until no worker has a missing block.
        """
        if not self.is_whole:
            self._fill(self._needed(index_B))
        a_nA = self.a_nA
        return self.base.read(a_nA.index_select(0, index_B.to(a_nA.device)))

    def complete(self) -> None:
        """Compute the blocks that no step has used, for the cache; a collective call."""
        if not self.is_whole:
            self._fill([index for index, block in enumerate(self.missing) if block is not None])

    def read_through(self, base: StandardizedBase) -> "ActivationBuffer":
        """Return a buffer on the same memory, which `base` reads and completes.

        Args:
            base: another view of the same base, such as one whose kernels read another type.
        """
        other = ActivationBuffer(
            a_nA=self.a_nA, missing=(), base=base, worker=self.worker, on_computed=self.on_computed
        )
        # The same list object: a block that either one computes is present for both.
        other.missing, other.starts, other.stops = self.missing, self.starts, self.stops
        other.watch(self._on_rows)
        return other

    def _needed(self, index_B: Tensor) -> list[int]:
        """Return the numbers of the missing blocks that these rows belong to."""
        if not len(self.starts):
            return []
        number_B = torch.searchsorted(self.starts, index_B, right=True) - 1
        # A row before the first block, or between two blocks, is present.
        number_B = number_B[(number_B >= 0) & (index_B < self.stops[number_B])]
        return [number for number in number_B.unique().tolist() if self.missing[number] is not None]

    def _fill(self, needed: Sequence[int]) -> None:
        """Compute these blocks; a collective call."""
        left = sum(block is not None for block in self.missing)
        pieces = [piece for number in needed for piece in self._pieces(number)]
        rounds, most_left = greatest((len(pieces), left), self.worker)
        # `most_left` counts the blocks before this call, and is the same on every worker. So all
        # workers stop making this collective call at the same time.
        self.is_whole = most_left == 0
        for number, start, rows in pieces:
            block = self.missing[number]
            assert block is not None
            block.put(self.a_nA, start, self.base.look_up(rows))
            self._on_rows(len(rows))
            if start + len(rows) == len(block.rows):
                self.missing[number] = None
                self.on_computed(block, self.a_nA[block.first : block.stop])
        # A lookup in sharded tables is a collective call: take part without rows.
        for _ in range(rounds - len(pieces)):
            self.base.look_up(features.no_rows(self.base.catalog))

    def _pieces(self, number: int) -> Iterator[tuple[int, int, pa.Table]]:
        """Yield what goes through the base at a time: number of the block, first row, rows."""
        block = self.missing[number]
        assert block is not None
        for start in range(0, len(block.rows), LOOK_UP_ROWS):
            yield number, start, block.rows.slice(start, LOOK_UP_ROWS)


def memory_for(
    rows: int, width: int, dtype: torch.dtype, *, spill: Path | None, device: torch.device
) -> Tensor:
    """Return memory for activations: on the device, or mapped from a file without a name.

    The file's name is removed before this returns, and its bytes are freed with the tensor.

    Args:
        rows: n.
        width: A.
        dtype: type in which they are stored.
        spill: folder on a local disk for the file; None for the device's memory.
        device: device on which the base computes.

    Raises:
        DoesNotFit: the disk is too full, or no folder can be written.
    """
    if spill is None or not rows:
        return torch.empty(rows, width, dtype=dtype, device=device)
    elements = rows * width
    path = _reserved(spill, elements * dtype.itemsize)
    mapped = torch.from_file(str(path), shared=True, size=elements, dtype=dtype)
    path.unlink()  # the mapping keeps the bytes until the tensor is freed
    return mapped.view(rows, width)


def _reserved(spill: Path, num_bytes: int) -> Path:
    """Create a file of `num_bytes` whose disk space is allocated, and return its path.

    Where the folder cannot be written, the file goes to the folder for temporary files.

    Raises:
        DoesNotFit: the disk is too full, or neither folder can be written.
    """
    for folder in (spill, Path(tempfile.gettempdir())):
        path = folder / f".{os.getpid()}-{time.monotonic_ns()}.buffer"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                # A write to a mapping of a full disk would kill the process (SIGBUS).
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            # Where the folder is a file, even removing a path below it is an error.
            with suppress(OSError):
                path.unlink()
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
