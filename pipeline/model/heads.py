"""Define the heads: one tower per task, as stacked tensors, so that adapters can be added.

Shapes: B rows, T tasks, W units a task reads, D hidden units of a tower, H = T * W.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from iak.pipeline.model.batch_invariant import batch_invariant, row_dots, task_products


class Heads(nn.Module):
    """Task t reads h[:, t*W:(t+1)*W] through Linear(W, D), ReLU, Linear(D, 1)."""

    def __init__(self, *, tasks: int, width: int, hidden: int) -> None:
        """Allocate the towers and draw their first weights.

        Args:
            tasks: T.
            width: W, units that each task reads.
            hidden: D, hidden units of each tower.
        """
        super().__init__()
        self.tasks, self.width, self.hidden = tasks, width, hidden
        self.w1_TWD = nn.Parameter(torch.empty(tasks, width, hidden))
        self.b1_TD = nn.Parameter(torch.empty(tasks, hidden))
        self.w2_TD = nn.Parameter(torch.empty(tasks, hidden))
        self.b2_T = nn.Parameter(torch.empty(tasks))
        self.reset_parameters()

    @property
    def units(self) -> int:
        """Return H, the units of h that all towers read."""
        return self.tasks * self.width

    def reset_parameters(self) -> None:
        """Draw first weights as nn.Linear does: uniform within 1 / sqrt(inputs)."""
        for weight, bias, inputs in (
            (self.w1_TWD, self.b1_TD, self.width),
            (self.w2_TD, self.b2_T, self.hidden),
        ):
            nn.init.uniform_(weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
            nn.init.uniform_(bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def start_at(self, rates: Sequence[float]) -> None:
        """Set each task's bias so that it starts near its rate.

        The model then need not learn how rare a label is.

        Args:
            rates: share of positive labels of each task, 0 < rate < 1.
        """
        with torch.no_grad():
            # In float64, so that the logit is rounded once.
            self.b2_T.copy_(torch.tensor(rates, dtype=torch.float64).logit())

    def forward(self, h_BH: Tensor) -> Tensor:
        """Return one logit per task, `logits_BT`."""
        return self.read_out(self.hidden_units(h_BH))

    def hidden_units(self, h_BH: Tensor) -> Tensor:
        """Return the towers' hidden units before their ReLU, `hidden_BTD`."""
        h_BTW = h_BH.reshape(-1, self.tasks, self.width)
        return task_products(h_BTW, self.w1_TWD) + self.b1_TD

    def read_out(self, hidden_BTD: Tensor) -> Tensor:
        """Return the logits of hidden units before their ReLU, `logits_BT`."""
        return row_dots(hidden_BTD.relu(), self.w2_TD) + self.b2_T


class Tail(nn.Module):
    """The part of any module from h to the logits: frozen, and without adapters of its own."""

    width = hidden = 0  # a kernel's adapters belong to towers, and a tail has none

    def __init__(self, function: Callable[[Tensor], Tensor], *, tasks: int, units: int) -> None:
        """Wrap a function.

        Args:
            function: h_BH -> logits_BT. Autograd goes through it, to h.
            tasks: T.
            units: H.
        """
        super().__init__()
        self.function, self.tasks, self.units = function, tasks, units

    def forward(self, h_BH: Tensor) -> Tensor:
        """Return one logit per task, `logits_BT`."""
        with batch_invariant():
            return self.function(h_BH)
