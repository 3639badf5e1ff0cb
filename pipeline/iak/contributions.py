"""Split what a kernel adds to the base's logits into the ways it takes.

    through h         tower(h + Wd z) - tower(h)                 the code moves what the towers read
    through adapters  tower'(h + Wd z) - tower(h + Wd z)         tower': the tower with its adapters
    through the skip  Ws z + bs                                  the code adds to the logit itself

The order is that in which `kernel.run` applies them. The three sum to its logits minus the base's,
to the rounding of fp32. In another order the first two would be other numbers, with the same sum.

Shapes: the letters of kernel.py.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import linear

from iak.pipeline.iak import kernel
from iak.pipeline.iak.kernel import Weights
from iak.pipeline.model.heads import Heads, Tail


class Contributions(NamedTuple):
    """The base's logits of B rows, what one kernel adds to them, and its rate."""

    base_BT: Tensor
    """The base's logits."""
    through_h_BT: Tensor
    through_adapters_BT: Tensor
    """Zero on a base whose tail takes no adapters."""
    through_skip_BT: Tensor
    logits_BT: Tensor
    """The kernel's logits."""
    rate_B: Tensor
    """Nats per row."""


def contributions(
    weights: Weights, heads: Heads | Tail, h_BH: Tensor, a_BA: Tensor
) -> Contributions:
    """Return what one kernel adds to the base's logits, when it predicts with its mean code.

    Args:
        weights: weights of the kernel, the probe's included.
        heads: the base's towers.
        h_BH: the base's representation.
        a_BA: standardised encoder inputs.
    """
    output = kernel.run(weights, heads, h_BH, a_BA, None)
    e_BO = linear(a_BA, weights["encode_w"], weights["encode_b"]).relu()
    z_BC = linear(e_BO, weights["mean_w"], weights["mean_b"])
    base_BT: Tensor = heads(h_BH)
    moved_BT: Tensor = heads(h_BH + linear(z_BC, weights["decode_w"]))
    skip_BT = linear(z_BC, weights["skip_w"], weights["skip_b"])
    # Double precision: a difference of two fp32 logits is exact there, and rounds in fp32.
    base_BT, moved_BT, skip_BT = base_BT.double(), moved_BT.double(), skip_BT.double()
    logits_BT = output.logits_BT.double()
    return Contributions(
        base_BT=base_BT,
        through_h_BT=moved_BT - base_BT,
        through_adapters_BT=logits_BT - skip_BT - moved_BT,
        through_skip_BT=skip_BT,
        logits_BT=logits_BT,
        rate_B=output.rate_B.double(),
    )
