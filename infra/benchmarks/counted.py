"""Write tables whose rows follow from their numbers: distinct, non-zero, and easy to recompute.

Row r has the bytes of a bijection of r, one code for each column, or half a code in int4. A code c
means (c - middle) * step, with the middle between two codes, so that no value is zero. fp16 can
represent these values exactly, and so can the scale and bias of int8 and int4, which are the same
for every row. A table is written as bytes, so that no row is ever in memory in fp32.

Shapes: I rows, W columns, N bytes of a row.
Source: splitmix64's idea (Steele, Lea, Flood 2014) in any number of bits: odd factors and shifts
are bijections.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from iak.pipeline.errors import BadRequest
from iak.pipeline.sharding.row_format import SCALE_BYTES
from iak.schemas.job import Precision

_CHUNK_ROWS = 1 << 16
_WORD_BITS = 64
_FACTORS = (-7046029254386353131, -4658895280553007687)  # 0x9E37..., 0xBF58..., odd
_SALT = 0x5851F42D4C957F2D
_LAW = {4: (7.5, 2.0**-6), 8: (127.5, 2.0**-10)}
"""Middle and step by bits of a code."""


def check(precision: Precision, *, rows: int, width: int) -> None:
    """Refuse tables whose rows could not all differ.

    Raises:
        BadRequest: a row has fewer bits than it takes to number the rows.
    """
    bits = width * _bits(precision)
    if (bits < _WORD_BITS and rows > 1 << bits) or width % 2:
        raise BadRequest(
            f"{rows:,} rows of {width} columns in {precision} have {bits} bits each, in whole "
            "pairs of columns; they cannot all differ. Take an even and larger dim"
        )


def write(out: Tensor, precision: Precision, *, first_row: int) -> Iterator[int]:
    """Fill a frozen table's rows from `first_row` on, and yield the number of rows done so far.

    `out` is a shard as `FrozenTables.local_shards` shows it: bytes, or numbers.
    """
    has_scale = out.dtype == torch.uint8
    width = (out.shape[1] - SCALE_BYTES) * 8 // _bits(precision) if has_scale else out.shape[1]
    if has_scale:
        middle, step = _LAW[_bits(precision)]
        scale_bias = torch.tensor([step, -middle * step], dtype=torch.float16).view(torch.uint8)
    for first in range(0, len(out), _CHUNK_ROWS):
        part = out[first : first + _CHUNK_ROWS]
        rows_I = torch.arange(first_row + first, first_row + first + len(part))
        packed_IN = _packed(rows_I, width * _bits(precision))
        if has_scale:
            part[:, :SCALE_BYTES] = scale_bias
            part[:, SCALE_BYTES:] = packed_IN
        else:
            part.copy_(_values(packed_IN, precision))
        yield first + len(part)


def values(rows_I: Tensor, precision: Precision, *, width: int) -> Tensor:
    """Return the rows with these numbers, (I, width), as a lookup must give them."""
    return _values(_packed(rows_I, width * _bits(precision)), precision)


def _values(packed_IN: Tensor, precision: Precision) -> Tensor:
    codes_IW = packed_IN
    if _bits(precision) == 4:
        codes_IW = torch.stack([packed_IN & 15, packed_IN >> 4], dim=2).flatten(1)
    middle, step = _LAW[_bits(precision)]
    return (codes_IW.float() - middle) * step


def _bits(precision: Precision) -> int:
    """Return the bits of a column's code; in fp16 and fp32 it has eight."""
    return 4 if precision == "int4" else 8


def _packed(rows_I: Tensor, bits: int) -> Tensor:
    """Return bytes of each row: a bijection of its number first, then hashes of it."""
    words = []
    for number in range(-(-bits // _WORD_BITS)):
        salt = (number * _SALT + 2**63) % 2**64 - 2**63
        word_I = _mixed(rows_I + salt, min(_WORD_BITS, bits))
        words.append(word_I.view(torch.uint8).view(len(rows_I), -1))
    packed_IN = words[0] if len(words) == 1 else torch.cat(words, dim=1)
    return packed_IN[:, : bits // 8]


def _mixed(word_I: Tensor, bits: int) -> Tensor:
    """Map the numbers below 2^bits one to one, as int64; `word_I` is overwritten."""
    half = bits // 2
    low, kept = (1 << half) - 1, (1 << bits) - 1 if bits < _WORD_BITS else -1
    for factor in _FACTORS:
        word_I.mul_(factor)
        if kept != -1:
            word_I.bitwise_and_(kept)
        word_I.bitwise_xor_((word_I >> (bits - half)) & low)
    return word_I.mul_(_FACTORS[0]).bitwise_and_(kept)
