"""Define the module of a base that is known by its columns: it passes on what the log has.

Its representation h is the logits themselves, one unit a task, and its towers are the identity:

    h_t = logit_t                    tower_t(h) = ReLU(h_t) - ReLU(-h_t) = h_t

In floating point this is exact: one of the two terms is 0. So the base's prediction is the logged
logit bit for bit, and everything after the base (kernels, bank, gate, bundles) is that of any other
base. A kernel's decoder and skip connection add to the logit. Its adapters give it another slope
and another offset above 0 than below, by which a kernel also corrects a domain's calibration.

x is what else kernels read: the numbers of the catalogue, then the logged activations.

Where the catalogue's base has towers, their weights are known too: the part of the recommender from
the logged activations g to the logits. Then g is a part of h, which a kernel moves:

    h = [logit - towers(g) ; g]      logits(h) = h[:T] + towers(h[T:])

The first T units are what rounding lost when g was logged. So the base still predicts the logged
logit, to one rounding of fp32. x is the numbers and the logits.

Shapes: B rows, N dense inputs, T tasks, U logged activations, W = 1 unit a tower reads, D = 2
hidden units of a tower. Without towers X = N - T and H = T; with them X = N - U and H = T + U.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.representation import Representation


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


class TaskTowers(nn.Module):
    """Linear layers with a ReLU between them, from h to the logit of each task; frozen."""

    def __init__(self, *, tasks: int, units: int, hidden: Sequence[int]) -> None:
        """Allocate the towers.

        Args:
            tasks: T.
            units: U, the activations that every tower reads.
            hidden: units of the hidden layers of a tower; empty for one linear layer.
        """
        super().__init__()
        self.units = units
        sizes = list(zip([units, *hidden], [*hidden, 1], strict=True))
        self.towers = nn.ModuleList(
            nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in sizes)
            for _ in range(tasks)
        )
        self.requires_grad_(False)

    def named_tensors(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return all weights as files name them: `ctr.0.weight`, `ctr.0.bias`, `ctr.1.weight`, ...

        Args:
            tasks: name of each task, in order.
        """
        return {
            f"{task}.{name}": tensor
            for task, tower in zip(tasks, self.towers, strict=True)
            for name, tensor in tower.state_dict().items()
        }

    def forward(self, g_BU: Tensor) -> Tensor:
        """Return one logit per task, `logits_BT`."""
        logits = []
        for tower in self.towers:
            assert isinstance(tower, nn.ModuleList)
            first, *others = tower
            part = first(g_BU)
            for layer in others:
                part = layer(part.relu())
            logits.append(part)
        return torch.cat(logits, dim=1)


class GivenModel(nn.Module):
    """A base without tables and trunk, whose logits are among the dense inputs of a row."""

    def __init__(self, *, tasks: int, towers: TaskTowers | None = None) -> None:
        """Make the part from h to the logits.

        Args:
            tasks: number of tasks; the last so many dense inputs are their logits.
            towers: from the logged activations to the logits; None where nobody gave them.
        """
        super().__init__()
        self.tasks, self.towers = tasks, towers
        self.heads: Heads | Tail = (
            identity_towers(tasks)
            if towers is None
            else Tail(self._logits, tasks=tasks, units=tasks + towers.units)
        )
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
        """Return the logits as h, and the other dense inputs as x; with towers, as above.

        Args:
            ids: not read; a base without tables has none.
            numeric_BN: dense inputs of the rows: numbers, logged activations, logits.
        """
        inputs_BX, logits_BT = numeric_BN.split(
            [numeric_BN.shape[1] - self.tasks, self.tasks], dim=1
        )
        if self.towers is None:
            return Representation(h_BH=logits_BT, x_BX=inputs_BX)
        numbers = inputs_BX.shape[1] - self.towers.units
        numbers_BN, g_BU = inputs_BX.split([numbers, self.towers.units], dim=1)
        with batch_invariant():
            lost_BT = logits_BT - self.towers(g_BU)
        return Representation(
            h_BH=torch.cat([lost_BT, g_BU], dim=1), x_BX=torch.cat([numbers_BN, logits_BT], dim=1)
        )

    def _logits(self, h_BH: Tensor) -> Tensor:
        """Return what rounding lost, and what the towers make of the activations, in one sum."""
        assert self.towers is not None, "identity towers read the logits themselves"
        logits_BT: Tensor = h_BH[:, : self.tasks] + self.towers(h_BH[:, self.tasks :])
        return logits_BT
