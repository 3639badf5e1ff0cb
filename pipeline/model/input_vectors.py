"""Give every input of x a vector of one length, for trunks that multiply inputs with each other.

Shapes: B rows, X units of x, F embeddings, N numbers, K units of a vector, D units of an embedding.
Sources: Ginart et al. 2021, "Mixed dimension embeddings with application to memory-efficient
recommendation systems", section 3 (an embedding of another width is projected, v = P e). Rendle
2010, "Factorization machines", eq. 1 (a number's vector is the number times a learned vector).
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class InputVectors(nn.Module):
    """One matrix along x: a projection for each embedding, a vector for each number."""

    def __init__(self, *, embeddings: Sequence[int], numbers: int, width: int) -> None:
        """Allocate the matrix and draw its first values.

        Args:
            embeddings: D of each embedding, in the order of x.
            numbers: N, numbers at the end of x.
            width: K.

        Raises:
            ValueError: there is no embedding.
        """
        super().__init__()
        if not embeddings:
            raise ValueError(
                "this trunk multiplies embeddings with each other, and the catalogue has none; "
                "add a feature that reads a table, or use model.trunk=mlp"
            )
        self.sizes, self.numbers, self.width = tuple(embeddings), numbers, width
        self.weight_KX = nn.Parameter(torch.empty(width, sum(embeddings) + numbers))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let an embedding of K units be its own vector; draw the rest as nn.Linear does."""
        *projections, vectors_KN = self.weight_KX.split([*self.sizes, self.numbers], dim=1)
        for weight_KD in (*projections, vectors_KN):
            bound = 1 / math.sqrt(max(1, weight_KD.shape[1]))
            nn.init.uniform_(weight_KD, -bound, bound)
        for projection_KD in projections:
            if projection_KD.shape[1] == self.width:
                projection_KD.copy_(torch.eye(self.width))

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the embeddings, `e_BFK`, and those of the numbers, `n_BNK`."""
        # By slices, because torch.fx cannot trace the unpacking of a split.
        starts = [0, *accumulate(self.sizes)]
        end = starts[-1]
        e_BFK = torch.stack(
            [linear(x_BX[:, a:b], self.weight_KX[:, a:b]) for a, b in pairwise(starts)],
            dim=1,
        )
        return e_BFK, x_BX[:, end:, None] * self.weight_KX[:, end:].T
