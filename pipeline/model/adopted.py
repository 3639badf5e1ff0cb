"""Define what a torch module must have to become a base, and the frozen base itself.

A module of your own becomes a base unchanged. A subclass or a wrapper names h, a layer's output in
it, and the part from h to the logits:

    class Adopted(MyRecommender):
        units = 64                                     # width of h

        def represent(self, ids, numbers):             # (B, 64)
            ...

        def tail(self, h):                             # (B, tasks), in the order of the catalogue
            return self.output(h)

    def build():                                       # factory = "my_package.model:build"
        return Adopted()

`ids` is a KeyedJaggedTensor. A feature's values are row numbers of its table: 0 for a null, 1 for
an id outside the table, and id + 2 for every other. `numbers` are the numeric features, in order.

The layers that are embedding tables are published as tables, which workers share
(module_tables.py). A module that names some of them, by `tables = ("items", "users")`, has no
others: its other layers are weights, which lie whole on every worker.

A module may also have `problems_with(catalog)`, which returns sentences: what a catalogue must
change to give it what it reads. `iak adopt` then refuses with these.

Shapes: B rows, N numbers, H units of the attach point, T tasks.
"""

from typing import Protocol, cast

from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.heads import Tail
from iak.pipeline.model.module_tables import settle_norms
from iak.pipeline.model.representation import Representation
from iak.schemas.feature import FIRST_ROW


class Adoptable(Protocol):
    """A torch module with an attach point h and the tail behind it."""

    units: int
    """H, the width of the attach point."""

    def represent(self, ids: KeyedJaggedTensor, numbers: Tensor) -> Tensor:
        """Return h_BH of a batch."""
        ...

    def tail(self, h: Tensor) -> Tensor:
        """Return the logits of every task, `logits_BT`, from h."""
        ...


NEEDED = ("units", "represent", "tail")
"""What a factory's module must have."""


class AdoptedModel(nn.Module):
    """A frozen base made of a module that was trained elsewhere."""

    def __init__(self, module: nn.Module, *, tasks: int, tables: nn.Module | None = None) -> None:
        """Freeze the module.

        Args:
            module: an `Adoptable` with its weights.
            tasks: T.
            tables: the frozen tables in which layers of the module look rows up; None where all
                its weights lie in the module.
        """
        super().__init__()
        self.module, self.tables = module.requires_grad_(False), tables
        settle_norms(module)
        own = cast("Adoptable", module)
        self.heads = Tail(own.tail, tasks=tasks, units=own.units)
        self.eval()

    def forward(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Tensor:
        """Return the module's logits, `logits_BT`; a collective call where tables are shared."""
        logits_BT: Tensor = self.heads(self.represent(ids, numeric_BN).h_BH)
        return logits_BT

    def represent(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Representation:
        """Return the module's h, and the numbers as x; a collective call where tables are shared.

        Args:
            ids: row numbers of this worker's rows, by feature.
            numeric_BN: numbers of these rows.
        """
        own, rows = cast("Adoptable", self.module), len(numeric_BN)
        if rows == 0 and self.tables is not None:
            # The other workers look rows up. A module that returns early, because it has no rows,
            # would leave them waiting for this worker.
            ids, numeric_BN = made_row(ids, numeric_BN)
        with batch_invariant():
            h_BH = own.represent(ids, numeric_BN)
        return Representation(h_BH=h_BH[:rows], x_BX=numeric_BN[:rows])


def made_row(ids: KeyedJaggedTensor, numeric_BN: Tensor) -> tuple[KeyedJaggedTensor, Tensor]:
    """Return one row that has id 0 in every feature, and zeros as numbers.

    Args:
        ids: ids of other rows, whose features, types and device the row gets.
        numeric_BN: numbers of these rows.
    """
    keys = ids.keys()
    row = KeyedJaggedTensor(
        keys=keys,
        values=ids.values().new_full((len(keys),), FIRST_ROW),
        lengths=ids.lengths().new_ones(len(keys)),
    )
    return row, numeric_BN.new_zeros(1, numeric_BN.shape[1])
