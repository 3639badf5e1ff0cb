"""Define a linear layer that rounds a row the same way wherever it lies among other rows.

A cached row was computed among other neighbours than tonight's. Both nights must agree to the bit.
MKL (2024.2, torch 2.13) on an AMD EPYC breaks that in two cases. A product with less than 12
outputs reads each row where it lies, and rounds by whether the row begins at a multiple of 16
bytes. A product of less than 4 rows goes another way. On an Intel Xeon neither was seen.
"""

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
        missing = LEAST_OUTPUTS - self.out_features
        if missing <= 0 or torch.is_grad_enabled():
            return super().forward(x_BI)
        bias_O = None if self.bias is None else pad(self.bias, (0, missing))
        y_BO = linear(x_BI, pad(self.weight, (0, 0, 0, missing)), bias_O)
        return y_BO[:, : self.out_features].contiguous()  # callers view the outputs in groups
