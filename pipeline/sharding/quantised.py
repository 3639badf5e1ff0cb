"""Rows of embedding tables as bytes: how they are made, and fbgemm's lookup of their sums.

    fp32    4 W bytes
    fp16    2 W bytes
    int8    scale, bias (fp16 each), W codes               value = scale * code + bias
    int4    scale, bias, W / 2 bytes of two codes each, the earlier column in the lower half

Scale and bias belong to the whole row of the table; a part of its columns repeats them.

Shapes: R rows, W columns, N bytes of a row, I ids, G bags.
Source: fbgemm's IntNBitTableBatchedEmbeddingBagsCodegen, written for serving; here it trains.
"""

import mmap
import threading
from contextlib import suppress
from typing import get_args

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from iak.pipeline.errors import BadRequest
from iak.schemas.job import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SCALE_BYTES = 4
"""Scale and bias of a row, fp16 each."""
_BITS: dict[Precision, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
_TYPES: dict[Precision, SparseType] = {
    "fp32": SparseType.FP32,
    "fp16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}
_LARGEST = 65504.0
"""The largest fp16, which the values of fp16 and the biases of int8 and int4 must not exceed."""
_CUDA_ALIGNMENT = 16
_HUGE_PAGE = 2 * 2**20
_ONE_AT_A_TIME = threading.Lock()


def has_scale(precision: Precision) -> bool:
    """Whether a row carries a scale and a bias."""
    return precision in ("int8", "int4")


def row_bytes(precision: Precision, width: int) -> int:
    """Bytes of a row of `width` columns."""
    return has_scale(precision) * SCALE_BYTES + width * _BITS[precision] // 8


def stride_bytes(precision: Precision, width: int, device: torch.device) -> int:
    """Bytes from one row to the next: on CUDA, rows begin at multiples of 16."""
    step = _CUDA_ALIGNMENT if device.type == "cuda" else 1
    return -(-row_bytes(precision, width) // step) * step


def column_bytes(precision: Precision, cols: int) -> int:
    """Bytes that `cols` columns take of a row, scale and bias not counted."""
    return cols * _BITS[precision] // 8


def check_width(table: str, precision: Precision, width: int) -> None:
    """Refuse a precision that cannot hold rows of this width.

    Raises:
        BadRequest: int4 with an odd number of columns, whose last byte would hold half.
    """
    if precision == "int4" and width % 2:
        raise BadRequest(
            f"table {table} has {width} columns; int4 holds them two by two. "
            f"Set tables.precisions.{table}=int8"
        )


def to_bytes(rows_RW: Tensor, precision: Precision, *, table: str, first_row: int) -> Tensor:
    """The rows as bytes_RN, on the CPU; `rows_RW` are whole rows of the table where it has scales.

    Raises:
        BadRequest: a value is not finite, or above 65504, and `precision` is not fp32.
    """
    if precision == "fp32":
        return rows_RW.contiguous().view(torch.uint8)
    _check_range(rows_RW, precision, table, first_row)
    if precision == "fp16":
        return rows_RW.half().view(torch.uint8)
    width = rows_RW.shape[1]
    missing = -width % (16 // _BITS[precision])
    if missing:  # fbgemm packs pairs of bytes; a repeated column moves no minimum, no maximum
        rows_RW = torch.cat([rows_RW, rows_RW[:, -1:].expand(-1, missing)], dim=1)
    packed = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(
        rows_RW.contiguous(), _BITS[precision]
    )
    codes = packed[:, : column_bytes(precision, width)]
    return torch.cat([packed[:, -SCALE_BYTES:], codes], dim=1)


def columns_of(bytes_RN: Tensor, precision: Precision, col: int, cols: int) -> Tensor:
    """The bytes of some columns of rows with scales, behind a copy of scale and bias."""
    start = SCALE_BYTES + column_bytes(precision, col)
    codes_RN = bytes_RN[:, start : start + column_bytes(precision, cols)]
    return torch.cat([bytes_RN[:, :SCALE_BYTES], codes_RN], dim=1)


def room_for(rows: int, stride: int, device: torch.device) -> Tensor:
    """Memory for rows of `stride` bytes, not written; on Linux in huge pages, where there are any.

    A random row of a table of gigabytes else waits for the page table before it waits for memory.
    """
    size = rows * stride
    if device.type != "cpu" or size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, stride, dtype=torch.uint8, device=device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8).view(rows, stride)


class Lookup:
    """Sums of rows that are kept as bytes, in fp32."""

    def __init__(self, precision: Precision, width: int, device: torch.device) -> None:
        """For any matrix of such rows on this device."""
        self.width, self.device = width, device
        place = EmbeddingLocation.DEVICE if device.type == "cuda" else EmbeddingLocation.HOST
        self._kernel = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("", 1, width, _TYPES[precision], place)],
            device=device,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,
            output_dtype=SparseType.FP32,
            row_alignment=_CUDA_ALIGNMENT if device.type == "cuda" else 1,
        )
        self._kernel.weight_initialized = True
        self._kernel.initialize_logical_weights_placements_and_offsets()

    def __call__(self, bytes_RN: Tensor, ids_I: Tensor, offsets_G1: Tensor) -> Tensor:
        """The sum of each bag's rows, (G, width).

        Args:
            bytes_RN: rows, contiguous.
            ids_I: which of them, 0 <= id < R; the caller's duty.
            offsets_G1: where each bag begins in `ids_I`, and where the last one ends.
        """
        if len(ids_I) == 0:
            return torch.zeros(len(offsets_G1) - 1, self.width, device=self.device)
        held = "weights_dev" if self.device.type == "cuda" else "weights_host"
        with _ONE_AT_A_TIME:  # the kernel's rows are an attribute of it
            nothing = getattr(self._kernel, held)
            setattr(self._kernel, held, bytes_RN.flatten())
            sums_GW: Tensor = self._kernel(ids_I, offsets_G1.to(ids_I.dtype))
            setattr(self._kernel, held, nothing)  # what the rows are is the caller's to keep
        return sums_GW


def _check_range(rows_RW: Tensor, precision: Precision, table: str, first_row: int) -> None:
    """Refuse values that fp16 cannot hold, be they values or biases."""
    if rows_RW.numel() == 0:
        return
    low, high = rows_RW.aminmax()
    if bool(low >= -_LARGEST) and bool(high <= _LARGEST):  # False for a NaN, which aminmax hands on
        return
    row, col = (~(rows_RW.abs() <= _LARGEST)).nonzero()[0].tolist()
    raise BadRequest(
        f"table {table}, row {first_row + row}, column {col} holds {float(rows_RW[row, col])}; "
        f"{precision} holds numbers between -65504 and 65504. "
        f"Set tables.precisions.{table}=fp32, or pre-train a base without such a value"
    )
