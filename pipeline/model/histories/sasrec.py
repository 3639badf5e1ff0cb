"""Define self-attention over a history: its last state, beside the target.

Shapes: B rows, L positions, K units of a value.
Source: Kang and McAuley 2018, "Self-attentive sequential recommendation", eq. 1-6.

The paper scores the target by the dot product of the last state with it (eq. 6). Here the trunk
reads the state, and the products whose sum is that score. Attention has one head, as in the paper.
"""

import math

import torch
from torch import Tensor, nn

from iak.pipeline.model.histories.histories import History


class SelfAttention(nn.Module):
    """s = [f ; f * t], where f is the last state of a stack of causal blocks."""

    def __init__(self, *, width: int, positions: int, blocks: int, dropout: float = 0.0) -> None:
        """Build the blocks.

        Args:
            width: K.
            positions: L. A shorter history has the last ones.
            blocks: self-attention blocks, one at least.
            dropout: probability that a unit of the sum of values and positions, or of a layer's
                output, is dropped while training.
        """
        super().__init__()
        self.units = 2 * width
        # Zero at first: of values, whose scale the table sets, none is then outweighed.
        self.position_LK = nn.Parameter(torch.zeros(positions, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(blocks))

    def forward(self, history: History) -> Tensor:
        """Return the last state and its products with the target, `s_BS`."""
        e_BLK, is_value_BL, t_BK = history
        length = e_BLK.shape[1]
        f_BLK = self.dropout(e_BLK + self.position_LK[-length:])  # eq. 1
        *earlier, last = self.blocks
        for block in earlier:  # eq. 5
            f_BLK = block(f_BLK, is_value_BL)
        # No other state of the last block is read. A row without values has no state.
        f_BK = last(f_BLK, is_value_BL, queries=1)[:, 0] * is_value_BL[:, -1:]
        return torch.cat([f_BK, f_BK * t_BK], dim=1)


class Block(nn.Module):
    """Self-attention, then two layers for each position, each with a residual (section 3.3)."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        """Build the layers.

        Args:
            width: K.
            dropout: probability that a unit of either output is dropped while training.
        """
        super().__init__()
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, f_BLK: Tensor, is_value_BL: Tensor, queries: int | None = None) -> Tensor:
        """Return the next states of the last `queries` positions, of all when absent.

        Args:
            f_BLK: states.
            is_value_BL: False where a position is padding, which no other one reads.
            queries: positions at the end whose states are wanted.
        """
        queries = queries or f_BLK.shape[1]
        normed_BLK, asking_BQK = self.attention_norm(f_BLK), f_BLK[:, -queries:]
        read_BQK = causal_attention(
            self.query(normed_BLK[:, -queries:]),
            self.key(normed_BLK),
            self.value(normed_BLK),
            is_value_BL,
        )
        s_BQK = asking_BQK + self.dropout(read_BQK)
        next_BQK: Tensor = s_BQK + self.dropout(self.feed(self.feed_norm(s_BQK)))  # eq. 4
        return next_BQK


def causal_attention(q_BQK: Tensor, k_BLK: Tensor, v_BLK: Tensor, is_value_BL: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (eq. 2) over values that are no later than the query.

    Args:
        q_BQK: queries of the last Q positions.
        k_BLK: keys.
        v_BLK: what is averaged.
        is_value_BL: False where a position is padding. A query before every value reads padding.
    """
    queries, length = q_BQK.shape[1], k_BLK.shape[1]
    scaled_BQK = q_BQK / math.sqrt(q_BQK.shape[2])
    first = length - queries
    if torch.is_grad_enabled():
        is_past_QL = torch.ones(queries, length, dtype=torch.bool, device=k_BLK.device).tril(first)
        may_read_BQL = is_past_QL & is_value_BL[:, None]
        weight_BQL = _softmax(scaled_BQK @ k_BLK.transpose(1, 2), may_read_BQL)
        return weight_BQL @ v_BLK
    # Sums along each row, a query at a time: in a product of small matrices, a row's rounding may
    # depend on the other rows and on its address (iak/pipeline/model/batch_invariant.py).
    read = []
    for query in range(queries):
        past = slice(0, first + query + 1)
        score_BP = (scaled_BQK[:, query, None] * k_BLK[:, past]).sum(dim=2)
        weight_BP = _softmax(score_BP, is_value_BL[:, past])
        read.append((weight_BP[:, :, None] * v_BLK[:, past]).sum(dim=1))
    return torch.stack(read, dim=1)


def _softmax(scores: Tensor, may_read: Tensor) -> Tensor:
    """Return weights of the last axis; equal ones where nothing may be read."""
    # Not minus infinity, of which a softmax alone is NaN, and its gradient too.
    return scores.masked_fill(~may_read, torch.finfo(scores.dtype).min).softmax(dim=-1)
