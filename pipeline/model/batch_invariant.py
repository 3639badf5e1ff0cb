"""Let linear layers round a row the same way in every batch.

A row from the cache was computed in another batch than tonight's rows, and a row that is served in
another one than a row that is evaluated. They must agree to the bit. MKL (of torch 2.13, in one
thread) breaks that in two cases:

- A product with few outputs. With up to 11 outputs, the rounding of a row depends on the number of
  rows on an Intel Xeon with AVX-512, and on the row's address on an AMD EPYC. `batch_invariant`
  computes 12 outputs and drops the rest. On the Xeon, aligned addresses did not help.
- A product of few rows. On both, one to three rows take another path, and on the Xeon also eight
  rows of 200 inputs or more. Callers fill a batch up to a multiple of
  `iak.pipeline.data.batch.FULL_ROWS` rows (`represent_rows`).

With both, rows agreed on the Xeon in all shapes that were tried: up to 3,000 inputs, 512 outputs
and 4,096 rows. Where MKL may use nothing beyond AVX2 (`MKL_ENABLE_INSTRUCTIONS=AVX2` there), the
rounding of a row depends on the number of rows in every shape.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

MIN_OUTPUTS = 12
"""Outputs of a product from which a row's result does not depend on the other rows."""


def batch_invariant() -> AbstractContextManager[object]:
    """Return a context in which linear layers compute at least `MIN_OUTPUTS` outputs each.

    It reaches every layer that is called inside, also those of a module that was made elsewhere.
    Under autograd it changes nothing. Training does not need it: a row meets other rows in each
    epoch.
    """
    return nullcontext() if torch.is_grad_enabled() else _EnoughOutputs()


def task_products(x_BTI: Tensor, w_TIO: Tensor) -> Tensor:
    """Return x w of each task, `y_BTO`.

    Args:
        x_BTI: rows, by task.
        w_TIO: a matrix for each task.
    """
    if torch.is_grad_enabled():
        return torch.einsum("bti,tio->bto", x_BTI, w_TIO)
    # torch computes a small batched product itself, and passes a larger one to MKL. So the rounding
    # of a row would depend on the number of rows.
    with batch_invariant():
        products = [linear(x_BTI[:, task], w_IO.T) for task, w_IO in enumerate(w_TIO)]
    return torch.stack(products, dim=1)


def row_dots(x_BTI: Tensor, w_TI: Tensor) -> Tensor:
    """Return the dot product of each row with its task's weights, `y_BT`.

    Args:
        x_BTI: rows, by task.
        w_TI: a vector for each task.
    """
    if torch.is_grad_enabled():
        return torch.einsum("bti,ti->bt", x_BTI, w_TI)
    # A sum along each row. In a product with one output, the rounding of a row would depend on the
    # number of rows.
    dots_BT: Tensor = (x_BTI * w_TI).sum(dim=-1)
    return dots_BT


class _EnoughOutputs(TorchFunctionMode):
    """Replace `torch.nn.functional.linear` where it is called."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        called = _linear if func is linear else func
        return called(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return w x + b for each row; the arguments are named as torch names them."""
    outputs = len(weight)
    missing = MIN_OUTPUTS - outputs
    if missing <= 0:
        return linear(input, weight, bias)
    padded_bias = None if bias is None else pad(bias, (0, missing))
    padded = linear(input, pad(weight, (0, 0, 0, missing)), padded_bias)
    return padded[..., :outputs].contiguous()  # callers view the outputs in groups
