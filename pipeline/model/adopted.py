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

Shapes: B rows, N numbers, H units of the attach point, T tasks.
"""

from typing import Protocol, cast

from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.heads import Tail
from iak.pipeline.model.recommender import Representation


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
    """A frozen base made of a module that was trained elsewhere; whole on every worker."""

    def __init__(self, module: nn.Module, *, tasks: int) -> None:
        """Freeze the module.

        Args:
            module: an `Adoptable` with its weights.
            tasks: T.
        """
        super().__init__()
        self.module = module.requires_grad_(False)
        own = cast("Adoptable", module)
        self.heads = Tail(own.tail, tasks=tasks, units=own.units)
        self.eval()

    def forward(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Tensor:
        """Return the module's own logits, `logits_BT`."""
        logits_BT: Tensor = self.heads(self.represent(ids, numeric_BN).h_BH)
        return logits_BT

    def represent(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Representation:
        """Return the module's h, and the numbers as x.

        Args:
            ids: row numbers of this worker's rows, by feature.
            numeric_BN: numbers of these rows.
        """
        own = cast("Adoptable", self.module)
        with batch_invariant():
            h_BH = own.represent(ids, numeric_BN)
        return Representation(h_BH=h_BH, x_BX=numeric_BN)
