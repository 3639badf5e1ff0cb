"""Define what a base computes of a row for the kernels on it.

Shapes: B rows, H units of the representation, X units of x.
"""

from typing import NamedTuple

from torch import Tensor


class Representation(NamedTuple):
    """The base's inputs to a kernel: the trunk's output `h_BH` and its input `x_BX`.

    What is read of histories is in h alone.
    """

    h_BH: Tensor
    x_BX: Tensor
