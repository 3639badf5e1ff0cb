"""Encode rows of embedding tables as bytes (row_format.py), and look their sums up with fbgemm.

Shapes: R rows, W columns, N bytes of a row, I ids, G bags.
Source: fbgemm's IntNBitTableBatchedEmbeddingBagsCodegen. It is written for serving; here it reads
the frozen tables of a base while kernels are tuned.
"""

import mmap
import threading
from contextlib import suppress

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
from iak.pipeline.sharding.row_format import BITS, CUDA_ALIGNMENT, SCALE_BYTES, column_bytes
from iak.schemas.job import Precision

_TYPES: dict[Precision, SparseType] = {
    "fp32": SparseType.FP32,
    "fp16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}
_LARGEST = 65504.0
"""The largest fp16. Values in fp16, and the biases of int8 and int4, must not exceed it."""
_HUGE_PAGE = 2 * 2**20
_ONE_AT_A_TIME = threading.Lock()
"""Locked during a lookup, because the rows are an attribute of the kernel."""


def to_bytes(rows_RW: Tensor, precision: Precision, *, table: str, first_row: int) -> Tensor:
    """Encode rows as bytes_RN, on the CPU.

    Args:
        rows_RW: rows in fp32: all columns where the precision has scales, else any of them.
        precision: type of an entry.
        table: name, for the message.
        first_row: the first row's number in the table, for the message.

    Raises:
        BadRequest: a value is not finite, or above 65504, and `precision` is not fp32.
    """
    if precision == "fp32":
        return rows_RW.contiguous().view(torch.uint8)
    _check_range(rows_RW, precision, table, first_row)
    if precision == "fp16":
        return rows_RW.half().view(torch.uint8)
    width = rows_RW.shape[1]
    missing = -width % (16 // BITS[precision])
    if missing:  # fbgemm packs pairs of bytes; a repeated column changes no minimum, no maximum
        rows_RW = torch.cat([rows_RW, rows_RW[:, -1:].expand(-1, missing)], dim=1)
    packed = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(
        rows_RW.contiguous(), BITS[precision]
    )
    codes = packed[:, : column_bytes(precision, width)]
    # This operator puts scale and bias last; the lookup kernel wants them first.
    return torch.cat([packed[:, -SCALE_BYTES:], codes], dim=1)


def columns_of(bytes_RN: Tensor, precision: Precision, col: int, cols: int) -> Tensor:
    """Return the bytes of some columns of rows with scales, after a copy of scale and bias."""
    start = SCALE_BYTES + column_bytes(precision, col)
    codes_RN = bytes_RN[:, start : start + column_bytes(precision, cols)]
    return torch.cat([bytes_RN[:, :SCALE_BYTES], codes_RN], dim=1)


def room_for(rows: int, stride: int, device: torch.device) -> Tensor:
    """Allocate memory for rows of `stride` bytes, not initialised.

    On a CPU, large memory is taken in huge pages where Linux has them. With ordinary pages, reading
    a random row of a table of gigabytes first waits for the page table, then for the row.
    """
    size = rows * stride
    if device.type != "cpu" or size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, stride, dtype=torch.uint8, device=device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8).view(rows, stride)


class Lookup:
    """Sums of rows that are stored as bytes, in fp32."""

    def __init__(self, precision: Precision, width: int, device: torch.device) -> None:
        """Prepare fbgemm's kernel for any matrix of such rows on this device."""
        self.width, self.device = width, device
        location = EmbeddingLocation.DEVICE if device.type == "cuda" else EmbeddingLocation.HOST
        # A table of one row: the real rows take its place in each call.
        self._kernel = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("", 1, width, _TYPES[precision], location)],
            device=device,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,
            output_dtype=SparseType.FP32,
            row_alignment=CUDA_ALIGNMENT if device.type == "cuda" else 1,
        )
        self._kernel.weight_initialized = True
        self._kernel.initialize_logical_weights_placements_and_offsets()

    def __call__(self, bytes_RN: Tensor, ids_I: Tensor, offsets_O: Tensor) -> Tensor:
        """Return the sum of each bag's rows, (G, width).

        Args:
            bytes_RN: rows, contiguous.
            ids_I: numbers of rows, 0 <= id < R. The caller checks them; the kernel does not.
            offsets_O: index in `ids_I` at which each bag begins, then the end of the last one.
        """
        if len(ids_I) == 0:
            return torch.zeros(len(offsets_O) - 1, self.width, device=self.device)
        attribute = "weights_dev" if self.device.type == "cuda" else "weights_host"
        with _ONE_AT_A_TIME:
            before = getattr(self._kernel, attribute)
            setattr(self._kernel, attribute, bytes_RN.flatten())
            sums_GW: Tensor = self._kernel(ids_I, offsets_O.to(ids_I.dtype))
            setattr(self._kernel, attribute, before)  # else the kernel would keep the rows alive
        return sums_GW


def _check_range(rows_RW: Tensor, precision: Precision, table: str, first_row: int) -> None:
    """Refuse values outside the range of fp16, in which values or biases are stored."""
    if rows_RW.numel() == 0:
        return
    low, high = rows_RW.aminmax()
    if bool(low >= -_LARGEST) and bool(high <= _LARGEST):  # False for a NaN, which aminmax returns
        return
    row, col = (~(rows_RW.abs() <= _LARGEST)).nonzero()[0].tolist()
    raise BadRequest(
        f"table {table}, row {first_row + row}, column {col} holds {float(rows_RW[row, col])}; "
        f"{precision} holds numbers between -65504 and 65504. "
        f"Set tables.precisions.{table}=fp32, or pre-train a base without such a value"
    )
