"""Define convolutions over a history, beside the target.

Shapes: B rows, L positions, K units of a value, D units of a window of some height, N filters of a
height, V vertical filters.
Source: Tang and Wang 2018, "Personalized top-N sequential recommendation via convolutional sequence
embedding", section 3.2.

A horizontal filter covers all units of some successive values; of its answers, the largest is read.
A vertical filter weighs positions, the same for every unit. A layer joins both into K units z,
which the paper compares with the target by a dot product, beside the user. Here x has the user, and
the trunk reads z and the products whose sum is that score.

A window ends at each value, and begins with zeros where the history does. So the paper's padding
changes nothing, and a single value has windows of every height.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from iak.pipeline.model.histories.histories import History


class Convolutions(nn.Module):
    """s = [z ; z * t], where z joins horizontal and vertical filters."""

    def __init__(
        self,
        *,
        width: int,
        positions: int,
        heights: Sequence[int],
        filters: int,
        vertical_filters: int,
        dropout: float = 0.0,
    ) -> None:
        """Build the filters.

        Args:
            width: K.
            positions: L. A shorter history has the last ones.
            heights: values that a horizontal filter covers, each height with `filters` of its own.
            filters: N.
            vertical_filters: V.
            dropout: probability that a filter's answer is dropped while training.
        """
        super().__init__()
        self.heights, self.units = tuple(heights), 2 * width
        self.horizontal = nn.ModuleList(nn.Linear(h * width, filters) for h in heights)
        self.vertical = nn.Linear(positions, vertical_filters, bias=False)
        answers = filters * len(heights) + vertical_filters * width
        self.join = nn.Linear(answers, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, history: History) -> Tensor:
        """Return the joined filters and their products with the target, `s_BS`."""
        e_BLK, is_value_BL, t_BK = history
        length = e_BLK.shape[1]
        answers = [
            _largest(layer, windows(e_BLK, height), is_value_BL)
            for layer, height in zip(self.horizontal, self.heights, strict=True)
        ]
        of_positions_VL = self.vertical.weight[:, -length:]
        answers.append(linear(e_BLK.transpose(1, 2), of_positions_VL).flatten(1))
        z_BK = self.join(self.dropout(torch.cat(answers, dim=1))).relu()
        z_BK = z_BK * is_value_BL[:, -1:]  # a row without values has no filters
        return torch.cat([z_BK, z_BK * t_BK], dim=1)


def windows(e_BLK: Tensor, height: int) -> Tensor:
    """Return the values up to each position, oldest first, `window_BLD`.

    Args:
        e_BLK: values. Zeros stand before the first one.
        height: values of a window.
    """
    padded = pad(e_BLK, (0, 0, height - 1, 0))
    return padded.unfold(1, height, 1).transpose(2, 3).flatten(2)


def _largest(layer: nn.Module, window_BLD: Tensor, is_value_BL: Tensor) -> Tensor:
    """Return the largest answer of each filter over the windows that end at a value, `o_BN`."""
    # After ReLU no answer is below zero, so that the zeros of padding never are the largest alone.
    answer_BLN = layer(window_BLD).relu() * is_value_BL[:, :, None]
    largest_BN: Tensor = answer_BLN.amax(dim=1)
    return largest_BN
