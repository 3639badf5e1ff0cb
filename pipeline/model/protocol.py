"""Define what tuning, the gate and serving need of a frozen base, whoever made it."""

from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor, nn

from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.representation import Representation

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class FrozenModel(Protocol):
    """A loaded base. It takes rows, and returns h and x, which kernels read and correct.

    `Recommender` is the base that is pre-trained here, `GivenModel` the one that is known by the
    columns of its log, `AdoptedModel` a torch module that was trained elsewhere.
    """

    heads: Heads | Tail
    """The part from h to the logits: towers, which a kernel also adapts, or any frozen tail."""

    def represent(self, ids: "KeyedJaggedTensor", numeric_BN: Tensor) -> Representation:
        """Return h and x of a batch; a collective call where tables are sharded."""
        ...


def unwrap_frozen(model: nn.Module) -> FrozenModel:
    """Return a frozen base inside the wrappers of DDP and TorchRec, or itself."""
    while not hasattr(model, "represent"):
        model = cast(nn.Module, model.module)
    return cast(FrozenModel, model)
