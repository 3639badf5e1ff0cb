"""Define embedding tables: their shapes, first values, and the parts that a process owns.

Every first value is a function of (seed, table, row, column) alone. A table therefore starts with
the same values however it is cut over workers.

Shapes: R rows of a part, W columns of a part.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 1 << 16
"""Elements of a table that are processed at once. Their int64 scratch, half a MiB, stays in the
processor's cache."""

TWIN = "~twin"
"""Suffix of a feature whose bags are all empty. fbgemm's CPU kernel drops the weight decay of a
table that only one feature reads (1.8.0: its fast path passes 0). A second, empty reader takes the
table off that path."""

POSITION = "~"
"""Between the name of a history and the number of a position, which reads the table by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableShape:
    """One table of `rows` x `width`; each of `features` reads it with bags of its own."""

    name: str
    rows: int
    width: int
    features: tuple[str, ...]
    """The catalogue's features, and the positions of histories that are read one by one."""

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the weights in fp32."""
        return self.rows * self.width * 4

    @property
    def declared_features(self) -> tuple[str, ...]:
        """Return the features that the catalogue declares, in order."""
        return tuple(f for f in self.features if is_declared(f))


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalShard:
    """The part of a table that this process owns."""

    table: str
    row_offset: int
    """Row of the table at which the part begins."""
    col_offset: int
    """Column of the table at which the part begins."""
    tensor_RW: Tensor
    """The weight itself, not a copy."""


@dataclass(frozen=True, slots=True)
class UniformStart:
    """First values of one table: uniform on [-scale, scale), a function of (row, column) alone."""

    table: str
    seed: int
    scale: float

    def __call__(self, weight_RW: Tensor, row_offset: int = 0, col_offset: int = 0) -> Tensor:
        """Fill the part of the table that begins at (row_offset, col_offset), in place.

        TorchRec calls this as an `init_fn`, with the weight of a whole table alone.
        """
        rows, width = weight_RW.shape
        salt = int.from_bytes(hashlib.sha256(f"{self.seed}/{self.table}".encode()).digest()[:7])
        cols_W = torch.arange(col_offset, col_offset + width, device=weight_RW.device)
        step = max(1, CHUNK_ELEMENTS // max(1, width))
        with torch.no_grad():
            for first in range(0, rows, step):
                last = min(first + step, rows)
                rows_R = torch.arange(
                    row_offset + first, row_offset + last, device=weight_RW.device
                )
                row_key_R = mix64(rows_R + salt)
                # The upper 24 bits: fp32 represents every multiple of 2^-23 in [-1, 1) exactly.
                bits_RW = mix64(row_key_R[:, None] ^ (cols_W * _GOLDEN)) >> 40 & 0xFFFFFF
                weight_RW[first:last] = (bits_RW * 2.0**-23 - 1.0) * self.scale
        return weight_RW


_CHILDREN = nn.ModuleDict()
_TAKEN = "-"
"""Ends the name of a table where `ModuleDict` has something of that name. Names of a catalogue have
only letters, digits and underscores."""


def torchrec_name(table: str) -> str:
    """Return the name under which TorchRec keeps a table, for most the table's own.

    TorchRec keeps tables as children of a `ModuleDict`, which refuses `type`, `items`, `keys` and
    everything else that it has itself (torchrec 1.8).
    """
    return table + _TAKEN if hasattr(_CHILDREN, table) else table


def table_name(kept: str) -> str:
    """Return the table that TorchRec keeps under a name."""
    return kept.removesuffix(_TAKEN)


def position_names(feature: str, positions: int) -> list[str]:
    """Return the names under which the positions of a history read its table, oldest first."""
    return [f"{feature}{POSITION}{position}" for position in range(positions)]


def is_declared(reader: str) -> bool:
    """Return whether a reader of a table is a feature of the catalogue.

    The others are positions of a history and twins. A feature's name has only letters, digits and
    underscores.
    """
    return POSITION not in reader


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio's 64 bits, as int64


def mix64(x: Tensor) -> Tensor:
    """Apply the splitmix64 finaliser to int64: a bijection that mixes every bit into every other.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    # torch has no unsigned shift of int64: the masks remove the copies of the sign bit.
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)
