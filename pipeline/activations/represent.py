"""Compute the frozen base's output: h and x."""

import pyarrow as pa
import torch
from torch import nn

from iak.pipeline.data.batch import Batch, filled_up, to_batch
from iak.pipeline.model.protocol import unwrap_frozen
from iak.pipeline.model.representation import Representation
from iak.schemas.log import Catalog

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LOOK_UP_ROWS = 8192
"""Rows that go through the base at a time."""


def represent(model: nn.Module, batch: Batch, products: torch.dtype) -> Representation:
    """Return h and x of a batch in fp32; a collective call.

    Args:
        model: the base, its tables frozen.
        batch: this worker's rows.
        products: type of the trunk's matrix products, torch.float32 or torch.bfloat16.
    """
    is_lower = products != torch.float32
    with torch.autocast(batch.numeric_BN.device.type, products, enabled=is_lower):
        h_BH, x_BX = unwrap_frozen(model).represent(batch.ids, batch.numeric_BN)
    return Representation(h_BH=h_BH.float(), x_BX=x_BX)


def represent_rows(
    model: nn.Module,
    rows: pa.Table,
    catalog: Catalog,
    *,
    products: torch.dtype,
    device: torch.device,
) -> Representation:
    """Return h and x of encoded rows, then of copies of the last one that fill the batch up.

    A row's fp32 values do not depend on the other rows of its call: the batch is filled up here,
    and the base computes it under `batch_invariant`. A collective call.

    Args:
        model: the base, its tables frozen.
        rows: this worker's rows, encoded. Where there are none, none are added.
        catalog: the catalogue by which they were encoded.
        products: type of the trunk's matrix products, torch.float32 or torch.bfloat16.
        device: where the base computes.
    """
    return represent(model, to_batch(filled_up(rows), catalog).to(device), products)
