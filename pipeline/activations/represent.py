"""Compute the frozen base's output for a batch: h and x."""

import torch
from torch import nn

from iak.pipeline.data.batch import Batch
from iak.pipeline.model.recommender import Representation
from iak.pipeline.sharding.shard import unwrap

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
        h_BH, x_BX = unwrap(model).represent(batch.ids, batch.numeric_BN)
    return Representation(h_BH=h_BH.float(), x_BX=x_BX)
