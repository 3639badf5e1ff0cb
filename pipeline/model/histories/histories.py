"""Look up histories value by value, and turn them into units that a trunk reads after x.

    ids          history [7 9 4]  []             two rows, L = 2 positions
    positions    history~0  [9]  []              each position is a bag of at most one id
                 history~1  [4]  []              the newest value has the last position
    tables       values_BLK, is_value_BL, target_BK
    readers      s_BS                            the trunk reads [x ; s]

A position reads the history's own table, as one more feature of the `EmbeddingBagCollection`. So a
table that is read by a history, by its mean and by its target is one table, which is trained, cut
over workers and frozen as every other one. (An `EmbeddingCollection` would hold a second copy.)

Shapes: B rows, L positions, K units of a value, S units of all histories.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from iak.pipeline.model.tables import position_names

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class HistoryShape(NamedTuple):
    """A history of a log."""

    feature: str
    target: str
    """Feature of the same table that the history is compared with."""
    positions: int
    """L, newest values that are read."""
    width: int
    """K, columns of the table."""

    @property
    def position_names(self) -> list[str]:
        """Return the names under which the positions read the table, oldest first."""
        return position_names(self.feature, self.positions)


class History(NamedTuple):
    """A history of some rows, its newest value last; a shorter one begins with padding."""

    values_BLK: Tensor
    """Embeddings; zeros where there is no value."""
    is_value_BL: Tensor
    """False where a position is padding. Zeros do not say so: a value may have them too."""
    target_BK: Tensor
    """Embedding of the target."""


class HistoryReader(Protocol):
    """A module that turns a history into units; into zeros where a row has no value."""

    units: int

    def __call__(self, history: History) -> Tensor:
        """Return the units of every row. Padding changes none of them."""
        ...


class Histories(nn.Module):
    """Every history of the log, each with a reader of its own."""

    def __init__(self, shapes: Sequence[HistoryShape], readers: Sequence[nn.Module]) -> None:
        """Join them.

        Args:
            shapes: the histories.
            readers: a `HistoryReader` for each.
        """
        super().__init__()
        self.shapes = tuple(shapes)
        self.readers = nn.ModuleList(readers)
        self.units = sum(cast("HistoryReader", reader).units for reader in readers)

    def forward(self, histories: Sequence[History]) -> Tensor:
        """Return the units of all histories side by side, `s_BS`."""
        pairs = zip(self.readers, histories, strict=True)
        return torch.cat([reader(history) for reader, history in pairs], dim=1)

    def on_meta(self, rows: int) -> list[History]:
        """Return histories of some rows on the device `meta`, to count what reading them takes.

        Args:
            rows: B.
        """
        with torch.device("meta"):
            return [
                History(
                    values_BLK=torch.empty(rows, s.positions, s.width, requires_grad=True),
                    is_value_BL=torch.empty(rows, s.positions, dtype=torch.bool),
                    target_BK=torch.empty(rows, s.width, requires_grad=True),
                )
                for s in self.shapes
            ]

    def with_positions(self, ids: "KeyedJaggedTensor") -> "KeyedJaggedTensor":
        """Return the same ids, plus a feature for each position of a history.

        Args:
            ids: bags of this worker's rows, by feature.
        """
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor  # see data/batch.py

        keys, values, lengths = [*ids.keys()], [ids.values()], [ids.lengths()]
        for shape in self.shapes:
            bags = ids[shape.feature]
            is_value_LB = has_value(bags.lengths(), shape.positions).T
            back_L = torch.arange(-shape.positions, 0, device=ids.device())
            at_LB = bags.lengths().cumsum(dim=0) + back_L[:, None]
            keys += shape.position_names
            values.append(bags.values()[at_LB[is_value_LB]])
            lengths.append(is_value_LB.flatten().to(ids.lengths().dtype))
        return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))

    def looked_up(
        self, sums: Mapping[str, Tensor], ids: "KeyedJaggedTensor", targets: Mapping[str, Tensor]
    ) -> list[History]:
        """Return every history of some rows.

        Args:
            sums: what the tables answered to `with_positions(ids)`, by feature. Sharded tables may
                have added rows.
            ids: bags of these rows, by feature.
            targets: feature -> its embedding (B, K), of every target at least.
        """
        found = []
        for shape in self.shapes:
            lengths_B = ids[shape.feature].lengths()
            values = [sums[name][: len(lengths_B)] for name in shape.position_names]
            found.append(
                History(
                    values_BLK=torch.stack(values, dim=1),
                    is_value_BL=has_value(lengths_B, shape.positions),
                    target_BK=targets[shape.target],
                )
            )
        return found


def has_value(lengths_B: Tensor, positions: int) -> Tensor:
    """Return which positions of a history have a value, `is_value_BL`.

    Args:
        lengths_B: values of each row's history.
        positions: L. The newest value has the last position.
    """
    age_L = torch.arange(positions, 0, -1, device=lengths_B.device)
    return lengths_B[:, None] >= age_L
