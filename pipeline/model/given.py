"""Define the module of a base that is known by its columns: it passes on what the log holds.

Its representation h is the logits themselves, one unit a task, and its towers are the identity:

    h_t = logit_t                    tower_t(h) = ReLU(h_t) - ReLU(-h_t) = h_t

In floating point this is exact: one of the two terms is 0. So the base's prediction is the logged
logit bit for bit, and everything after the base (kernels, bank, gate, bundles) is that of any other
base. A kernel's decoder and skip connection add to the logit. Its adapters give it another slope
and another offset above 0 than below, by which a kernel also corrects a domain's calibration.

x is what else kernels read: the numbers of the catalogue, then the logged activations.

Shapes: B rows, N dense inputs, T tasks, X = N - T, H = T, W = 1 unit a tower reads, D = 2 hidden
units of a tower.
"""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.heads import Heads
from iak.pipeline.model.recommender import Representation


def identity_towers(tasks: int) -> Heads:
    """Return frozen towers that return what they read.

    Args:
        tasks: number of tasks.
    """
    heads = Heads(tasks=tasks, width=1, hidden=2)
    signs = torch.tensor([1.0, -1.0])
    with torch.no_grad():
        heads.w1_TWD.copy_(signs.expand_as(heads.w1_TWD))
        heads.w2_TD.copy_(signs.expand_as(heads.w2_TD))
        heads.b1_TD.zero_()
        heads.b2_T.zero_()
    return heads.requires_grad_(False)


class GivenModel(nn.Module):
    """A base without tables and trunk, whose logits are among the dense inputs of a row."""

    def __init__(self, *, tasks: int) -> None:
        """Make its towers.

        Args:
            tasks: number of tasks; the last so many dense inputs are their logits.
        """
        super().__init__()
        self.heads = identity_towers(tasks)
        self.eval()

    def forward(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Tensor:
        """Return the logged logits, `logits_BT`."""
        logits_BT: Tensor = self.heads(self.represent(ids, numeric_BN).h_BH)
        return logits_BT

    def represent(
        self,
        ids: KeyedJaggedTensor,  # noqa: ARG002 - of the protocol
        numeric_BN: Tensor,
    ) -> Representation:
        """Return the logits as h, and the other dense inputs as x.

        Args:
            ids: not read; a base without tables has none.
            numeric_BN: dense inputs of the rows, the logits last.
        """
        inputs = numeric_BN.shape[1] - self.heads.tasks
        x_BX, h_BH = numeric_BN.split([inputs, self.heads.tasks], dim=1)
        return Representation(h_BH=h_BH, x_BX=x_BX)
