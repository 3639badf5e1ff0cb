"""Define how a row of a frozen table is stored in each precision, and how many bytes it takes.

    fp32    4 W bytes
    fp16    2 W bytes
    int8    scale, bias (fp16 each), W codes               value = scale * code + bias
    int4    scale, bias, W / 2 bytes of two codes each, the earlier column in the lower half

Scale and bias belong to the whole row of the table. A piece of its columns has a copy of them.

Shapes: W columns.
"""

from typing import get_args

import torch

from iak.pipeline.errors import BadRequest
from iak.schemas.job import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SCALE_BYTES = 4
"""Scale and bias of a row, fp16 each."""
BITS: dict[Precision, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
"""Bits of an entry."""
CUDA_ALIGNMENT = 16
"""Bytes at multiples of which fbgemm's kernel needs rows to begin on CUDA."""


def has_scale(precision: Precision) -> bool:
    """Return whether a row has a scale and a bias."""
    return precision in ("int8", "int4")


def row_bytes(precision: Precision, width: int) -> int:
    """Return the bytes of a row of `width` columns, scale and bias included."""
    return has_scale(precision) * SCALE_BYTES + width * BITS[precision] // 8


def stride_bytes(precision: Precision, width: int, device: torch.device) -> int:
    """Return the bytes from one row to the next. On CUDA, rows begin at multiples of 16."""
    step = CUDA_ALIGNMENT if device.type == "cuda" else 1
    return -(-row_bytes(precision, width) // step) * step


def column_bytes(precision: Precision, cols: int) -> int:
    """Return the bytes of `cols` columns of a row, without scale and bias."""
    return cols * BITS[precision] // 8


def check_width(table: str, precision: Precision, width: int) -> None:
    """Refuse a precision in which rows of this width cannot be stored.

    Raises:
        BadRequest: int4 with an odd number of columns, whose last byte would be half used.
    """
    if precision == "int4" and width % 2:
        raise BadRequest(
            f"table {table} has {width} columns; int4 holds them two by two. "
            f"Set tables.precisions.{table}=int8"
        )
