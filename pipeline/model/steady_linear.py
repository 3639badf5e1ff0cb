"""Define a linear layer that rounds a row the same way wherever it lies among other rows.

A cached row was computed among other neighbours than tonight's. Both nights must agree to the bit.
MKL (2024.2, torch 2.13) on an AMD EPYC breaks that in two cases. A product with less than 12
outputs reads each row where it lies, and rounds by whether the row begins at a multiple of 16
bytes. A product of less than 4 rows goes another way. On an Intel Xeon neither was seen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

LEAST_OUTPUTS = 12
"""Outputs of a product from which a row's result does not depend on its address."""
LEAST_ROWS = 4
"""Rows of a product from which a row's result does not depend on their number."""


class SteadyLinear(nn.Linear):
    """A linear layer that computes at least `LEAST_OUTPUTS` outputs when it does not train."""

    def forward(self, x_BI: Tensor) -> Tensor:
        """Return w x + b for each row, `y_BO`."""
        return steady_linear(x_BI, self.weight, self.bias, outputs=self.out_features)


def steady_linear(
    x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, outputs: int
) -> Tensor:
    """Return w x + b for each row, `y_BO`, by the products of a `SteadyLinear`.

    Args:
        x_BI: rows.
        weight_OI: w.
        bias_O: b; None for zero.
        outputs: O. A model that is traced by torch.fx cannot ask a tensor for its shape.
    """
    missing = LEAST_OUTPUTS - outputs
    if missing <= 0 or torch.is_grad_enabled():
        return linear(x_BI, weight_OI, bias_O)
    bias = None if bias_O is None else pad(bias_O, (0, missing))
    y_BO = linear(x_BI, pad(weight_OI, (0, 0, 0, missing)), bias)
    return y_BO[:, :outputs].contiguous()  # callers view the outputs in groups


def steady_mlp(width: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Build linear, ReLU, dropout, once per width.

    Args:
        width: units that the first layer reads.
        widths: units of each layer, in order.
        dropout: probability that a unit is dropped while training.
    """
    layers: list[nn.Module] = []
    for before, after in zip([width, *widths[:-1]], widths, strict=True):
        layers += [SteadyLinear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
