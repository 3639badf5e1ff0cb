"""Define target attention: each value of a history weighs what it has to do with the target.

Shapes: B rows, L positions, K units of a value, A hidden units.
Source: Zhou et al. 2018, "Deep interest network for click-through rate prediction", eq. 3 and
figure 2.

The weights of eq. 3 are not normalised, so that many values of interest count more than one. The
paper's activation unit reads the value, the target and their outer product. Here it reads the
products of equal units alone, K instead of K * K. A difference of value and target would add
nothing: the layer that reads both can form it. PReLU is the paper's first choice of an activation.
Its other one, Dice, would let a row depend on its batch.
"""

import torch
from torch import Tensor, nn

from iak.pipeline.model.histories.histories import History


class TargetAttention(nn.Module):
    """s = sum over j of a(e_j, t) e_j (eq. 3), where a is a small MLP."""

    def __init__(self, *, width: int, hidden: int) -> None:
        """Build the activation unit.

        Args:
            width: K.
            hidden: A.
        """
        super().__init__()
        self.units = width
        # One layer reads [e ; e * t ; t]. The part that reads t is computed once for each row.
        self.of_value = nn.Linear(2 * width, hidden, bias=False)
        self.of_target = nn.Linear(width, hidden)
        self.activation = nn.PReLU()
        self.weigh = nn.Linear(hidden, 1)

    def forward(self, history: History) -> Tensor:
        """Return the weighted sum of the values, `s_BK`."""
        e_BLK, is_value_BL, t_BK = history
        read_BLA = self.of_value(torch.cat([e_BLK, e_BLK * t_BK[:, None]], dim=2))
        hidden_BLA = self.activation(read_BLA + self.of_target(t_BK)[:, None])
        a_BL1 = self.weigh(hidden_BLA) * is_value_BL[:, :, None]
        # Not as a product of matrices: in a small one a row's rounding depends on the other rows.
        s_BK: Tensor = (a_BL1 * e_BLK).sum(dim=1)
        return s_BK
