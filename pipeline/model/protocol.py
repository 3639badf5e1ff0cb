"""Define what tuning, the gate and serving need of a frozen base, whoever made it."""

from typing import Protocol

from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.recommender import Representation


class FrozenModel(Protocol):
    """A loaded base. It takes rows, and returns h and x, which kernels read and correct.

    `Recommender` is the base that is pre-trained here, `GivenModel` the one that is known by the
    columns of its log, `AdoptedModel` a torch module that was trained elsewhere.
    """

    heads: Heads | Tail
    """The part from h to the logits: towers, which a kernel also adapts, or any frozen tail."""

    def represent(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Representation:
        """Return h and x of a batch; a collective call where tables are sharded."""
        ...
