"""Define DeepFM: a factorization machine and an MLP, which read the same x and are added.

Shapes: B rows, X input units, F embeddings, N numbers, K units of a vector, T tasks, W units a task
reads, H = T * W units of the representation (task t reads h[:, t*W:(t+1)*W]).
Sources: Guo et al. 2017, "DeepFM: a factorization-machine based neural network for CTR prediction",
eq. 1-4; Rendle 2010, "Factorization machines", lemma 3.1.

The paper has one output. Here each of the H units is one: it has its own first-order weights, and
weights of its own for the K summands of the second order, which the paper adds with weight 1.
The first-order weights read embeddings, where the paper has one weight for each id.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iak.pipeline.model.input_vectors import InputVectors
from iak.pipeline.model.inputs import AlongX
from iak.pipeline.model.trunks.mlp import mlp_layers


class DeepFm(nn.Module):
    """h = y_FM + y_DNN (eq. 1, before the sigmoid)."""

    def __init__(
        self,
        *,
        embeddings: Sequence[int],
        numbers: int,
        width: int,
        mlp: Sequence[int],
        expert_width: int,
        tasks: int,
        dropout: float = 0.0,
    ) -> None:
        """Build the layers; sizes are in units.

        Args:
            embeddings: width of each embedding, in the order of x.
            numbers: N, numbers at the end of x.
            width: K, units of a vector.
            mlp: widths of the deep part's layers; a linear layer to H follows them.
            expert_width: W, units of each task's part of h.
            tasks: T.
            dropout: probability that a unit of the deep part is dropped while training.

        Raises:
            ValueError: there is no embedding, or no width of the deep part.
        """
        super().__init__()
        if not mlp:
            raise ValueError("trunk 'deepfm' has no deep part; give model.mlp at least one width")
        self.out_width = tasks * expert_width
        self.vectors = InputVectors(embeddings=embeddings, numbers=numbers, width=width)
        units = sum(embeddings) + numbers
        self.deep = mlp_layers(units, mlp, dropout)
        self.out = nn.Linear(units + width + mlp[-1], self.out_width)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the tasks' units side by side, `h_BH`."""
        # One product over the three parts adds first order, second order and deep part.
        h_BH: Tensor = self.out(torch.cat([x_BX, self.second_order(x_BX), self.deep(x_BX)], dim=1))
        return h_BH

    def second_order(self, x_BX: Tensor) -> Tensor:
        """Return the sum over pairs i < j of v_i * v_j, by unit; its sum over K is eq. 2's.

        Lemma 3.1: ((sum of v)^2 - sum of v^2) / 2, in time linear in the number of inputs.
        """
        v_BVK = torch.cat(self.vectors(x_BX), dim=1)
        sum_BK = v_BVK.sum(dim=1)
        second_BK: Tensor = 0.5 * (sum_BK.square() - v_BVK.square().sum(dim=1))
        return second_BK

    def along_x(self) -> dict[str, AlongX]:
        """Return the parameters that run along x."""
        return {
            "vectors.weight_KX": AlongX(reads=1),
            "deep.0.weight": AlongX(reads=1),
            "out.weight": AlongX(reads=1),
        }
