"""Define the default trunk: crosses beside an MLP, then experts that each task mixes.

Shapes: B rows, X input units, Z units the experts read, E experts, T tasks, W units of an expert,
H = T * W units of the representation (task t's mixture is h[:, t*W:(t+1)*W]).
Sources: Wang et al. 2021, "DCN V2", eq. 1-2; Ma et al. 2018, "Modeling task relationships in
multi-task learning with multi-gate mixture-of-experts", eq. 6-7.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from iak.pipeline.model.inputs import AlongX
from iak.pipeline.model.trunks.mlp import mlp_layers


class DcnMmoe(nn.Module):
    """Cross network beside an MLP, into a multi-gate mixture of experts."""

    def __init__(
        self,
        *,
        width: int,
        cross_layers: int,
        cross_rank: int | None = None,
        mlp: Sequence[int] = (),
        experts: int,
        expert_width: int,
        tasks: int,
        dropout: float = 0.0,
    ) -> None:
        """Build the layers; sizes are in units.

        Args:
            width: X, units that the trunk reads.
            cross_layers: number of crossing layers; with 0, experts read x itself.
            cross_rank: rank of a crossing matrix; None for a full one.
            mlp: widths of the parallel MLP's layers; empty for none.
            experts: E, each a single layer.
            expert_width: W, units of an expert.
            tasks: T, each with a gate of its own.
            dropout: probability that an MLP or expert unit is dropped while training.
        """
        super().__init__()
        self.experts, self.expert_width, self.tasks = experts, expert_width, tasks
        self.out_width = tasks * expert_width
        self.cross = _cross_network(width, cross_layers, cross_rank)
        self.mlp = mlp_layers(width, mlp, dropout) if mlp else None
        joined = width + (mlp[-1] if mlp else 0)
        self.expert = nn.Linear(joined, experts * expert_width)
        self.gate = nn.Linear(joined, tasks * experts)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the tasks' mixtures side by side, `h_BH`."""
        z_BZ: Tensor = self.cross(x_BX)
        if self.mlp is not None:
            z_BZ = torch.cat([z_BZ, self.mlp(x_BX)], dim=1)
        e_BEW = self.expert(z_BZ).relu().view(-1, self.experts, self.expert_width)
        gate_BTE = self.gate(z_BZ).view(-1, self.tasks, self.experts).softmax(dim=-1)
        h_BTW: Tensor = gate_BTE @ self.dropout(e_BEW)
        return h_BTW.flatten(1)

    def along_x(self) -> dict[str, AlongX]:
        """Return the parameters that run along x.

        Experts and gates are among them: they read z, which begins with the crossed x.
        """
        kinds = {
            "cross.kernels.": AlongX(reads=1, makes=0),
            "cross.W_kernels.": AlongX(makes=0),
            "cross.V_kernels.": AlongX(reads=1),
            "cross.bias.": AlongX(makes=0),
            "mlp.0.weight": AlongX(reads=1),
            "expert.weight": AlongX(reads=1),
            "gate.weight": AlongX(reads=1),
        }
        return {
            name: along
            for name, _ in self.named_parameters()
            for start, along in kinds.items()
            if name.startswith(start)
        }


class FullCrosses(nn.Module):
    """Crosses of full matrices, which are as fast frozen as while they train.

    Weights, their names and their first values are those of TorchRec's `CrossNet`, and training
    rounds as it does. TorchRec 1.8 multiplies by `torch.matmul(kernel, x[:, :, None])`. Where the
    kernel has no gradient, torch 2.13 computes that as one product of matrix and vector for each
    row.
    """

    def __init__(self, width: int, layers: int) -> None:
        """Draw the first values.

        Args:
            width: X, units of the input.
            layers: number of crosses.
        """
        super().__init__()
        kernels = [nn.init.xavier_normal_(torch.empty(width, width)) for _ in range(layers)]
        self.kernels = nn.ParameterList(kernels)
        self.bias = nn.ParameterList([torch.zeros(width, 1) for _ in range(layers)])

    def forward(self, input_BX: Tensor) -> Tensor:
        """Return x_BX after all crosses, `z_BX`."""
        # A view, so that the gradients of all crosses add up before those of other readers of the
        # input join them. Training then rounds as TorchRec's does.
        x_BX = crossed_BX = input_BX.view_as(input_BX)
        for kernel_XX, bias_X1 in zip(self.kernels, self.bias, strict=True):
            # The bias apart, as TorchRec adds it: `linear` with a bias rounds otherwise.
            mapped_BX = linear(crossed_BX, kernel_XX) + bias_X1.squeeze(1)
            crossed_BX = x_BX * mapped_BX + crossed_BX
        return crossed_BX


def _cross_network(width: int, layers: int, rank: int | None) -> nn.Module:
    """Build layers of x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; W_l is full or of low rank."""
    if rank is None:
        return FullCrosses(width, layers)
    # TorchRec takes seconds to import, and the default trunk is built without it.
    from torchrec.modules.crossnet import LowRankCrossNet

    crosses: nn.Module = LowRankCrossNet(in_features=width, num_layers=layers, low_rank=rank)
    return crosses
