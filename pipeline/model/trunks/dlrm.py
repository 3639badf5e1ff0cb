"""Define DLRM: dot products of all pairs of embeddings, and an MLP over them.

Shapes: B rows, F embeddings, N numbers, K units of a vector, V = 1 + F vectors, P = V * (V - 1) / 2
pairs, T tasks, W units a task reads, H = T * W units of the representation (task t reads
h[:, t*W:(t+1)*W]).
Source: Naumov et al. 2019, "Deep learning recommendation model for personalization and
recommendation systems", section 2.2.

The bottom MLP has two layers of K units. Without numbers, its output is a learned constant, with
which a dot product is linear in the embedding. The top MLP ends in the H units of h.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iak.pipeline.model.input_vectors import InputVectors
from iak.pipeline.model.inputs import AlongX, pairs_of
from iak.pipeline.model.trunks.mlp import mlp_layers


class Dlrm(nn.Module):
    """Bottom MLP over numbers, dot products with and among embeddings, top MLP."""

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
            mlp: widths of the top MLP's layers before h.
            expert_width: W, units of each task's part of h.
            tasks: T.
            dropout: probability that a unit of the top MLP before h is dropped while training.

        Raises:
            ValueError: there is no embedding.
        """
        super().__init__()
        self.embeddings, self.out_width = len(embeddings), tasks * expert_width
        self.vectors = InputVectors(embeddings=embeddings, numbers=numbers, width=width)
        # The bottom MLP's first matrix is the part of `vectors` that reads numbers.
        self.bottom_bias_K = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        self.bottom = nn.Linear(width, width)
        pairs = pairs_of(1 + len(embeddings)).shape[1]
        top = mlp_layers(pairs + width, (*mlp, self.out_width), dropout)
        self.top = top[:-1]  # h itself is never dropped

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the tasks' units side by side, `h_BH`."""
        e_BFK, n_BNK = self.vectors(x_BX)
        z_BK = self.bottom((n_BNK.sum(dim=1) + self.bottom_bias_K).relu()).relu()
        v_BVK = torch.cat([z_BK[:, None], e_BFK], dim=1)
        dots_BVV = v_BVK @ v_BVK.transpose(1, 2)
        # The part above the diagonal, row by row: the order of `pairs_of`.
        dots = [dots_BVV[:, v, v + 1 :] for v in range(self.embeddings)]
        h_BH: Tensor = self.top(torch.cat([*dots, z_BK], dim=1))
        return h_BH

    def along_x(self) -> dict[str, AlongX]:
        """Return the parameters that run along x, or along the pairs of its embeddings."""
        return {"vectors.weight_KX": AlongX(reads=1), "top.0.weight": AlongX(pairs=1)}
