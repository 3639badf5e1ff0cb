"""Compute the frozen base's output for a batch: h and x."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from iak.pipeline.data.batch import Batch
from iak.pipeline.model.recommender import Representation
from iak.pipeline.sharding.shard import unwrap_frozen

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


def represent_alone(model: nn.Module, batch: Batch, products: torch.dtype) -> Representation:
    """Return h and x as `represent` does; a row's fp32 values do not depend on its position.

    Args:
        model: the base, its tables frozen.
        batch: this worker's rows, from `filled_up` rows.
        products: type of the trunk's matrix products, torch.float32 or torch.bfloat16.
    """
    with _AlignedRows():
        return represent(model, batch, products)


class _AlignedRows(TorchFunctionMode):
    """Let each row that enters a linear layer begin at a multiple of 16 bytes.

    The layers of our own trunks are a `SteadyLinear`, which needs no alignment. An adopted module
    brings layers of its own.

    A product with few outputs rounds a row by where it begins in memory (MKL of torch 2.13: up to
    eight outputs). Where the inputs are no multiple of four floats, that differs from row to row.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        if func is functional.linear:
            args = (_aligned(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _aligned(x: Tensor) -> Tensor:
    """Return the same values with gaps between the rows, where alignment needs them."""
    width = x.shape[-1]
    if width % 4 == 0:
        return x
    spaced = x.new_empty(*x.shape[:-1], width + -width % 4)[..., :width]
    return spaced.copy_(x)
