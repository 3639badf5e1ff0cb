"""Say that a loss is infinite or not a number. No later step and no retry repairs it.

A base that diverges ends its run. A kernel that diverges is given up alone: it shares nothing with
the others of its bank.
"""

import math
from collections.abc import Mapping

from iak.pipeline.errors import Diverged


def refuse_diverged(loss: float, *, where: str, rates: Mapping[str, float]) -> None:
    """Raise an error unless the loss is finite.

    Args:
        loss: summed over all workers, so that all of them stop at the same step.
        where: name and time of the loss: `the training loss at step 3 of 100`.
        rates: setting -> learning rate as the user set it. The message advises to lower the first
            one first.

    Raises:
        Diverged: the loss is infinite or not a number.
    """
    if math.isfinite(loss):
        return
    names = list(rates)
    order = f"{names[0]} first, then {' and '.join(names[1:])}" if names[1:] else names[0]
    raise Diverged(
        f"{loss_words(loss, where=where, rates=rates)}. Lower {order}, by a factor of ten, in "
        "another run_dir. Where that does not help, look for extreme numbers in the log: iak check"
    )


def loss_words(loss: float, *, where: str, rates: Mapping[str, float]) -> str:
    """Return the value of a loss, where it was seen, and the rates that led to it.

    Args:
        loss: as it is, infinite or not a number.
        where: name and time of the loss.
        rates: setting -> learning rate as the user set it.
    """
    asked = " and ".join(f"{name}={rate:g}" for name, rate in rates.items())
    return f"{where} is {loss:g} under {asked}"
