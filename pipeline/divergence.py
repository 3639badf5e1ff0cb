"""Stop a run whose loss is infinite or not a number. No later step and no retry repairs it."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from iak.pipeline.collectives import greatest
from iak.pipeline.errors import Diverged
from iak.pipeline.process import Worker

_SHOWN = 3


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
    asked = " and ".join(f"{name}={rate:g}" for name, rate in rates.items())
    names = list(rates)
    order = f"{names[0]} first, then {' and '.join(names[1:])}" if names[1:] else names[0]
    raise Diverged(
        f"{where} is {loss:g} under {asked}. Lower {order}, by a factor of ten, in another "
        "run_dir. Where that does not help, look for extreme numbers in the log: iak check"
    )


def first_broken(losses: Sequence[float], worker: Worker) -> int:
    """Return the first step whose loss is not finite on some worker; a collective call.

    Args:
        losses: losses of this worker, one per step; every worker has as many.
        worker: this process.

    Returns:
        The index of that step, or the number of steps where all losses are finite.
    """
    broken = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
    first = broken[0] if broken else len(losses)
    return -greatest((-first,), worker)[0]  # the smallest of all, by the largest of the negatives


def broken_names(losses_K: Tensor, wanted_K: Tensor, names: Sequence[str]) -> str:
    """Return the names of wanted slots whose loss is not finite: the first three, then a count.

    Args:
        losses_K: loss of each slot.
        wanted_K: True for each slot that is looked at.
        names: names of all slots.
    """
    slots = torch.nonzero(~losses_K.isfinite() & wanted_K).flatten().tolist()
    shown = ", ".join(names[slot] for slot in slots[:_SHOWN])
    return shown + (f" and {len(slots) - _SHOWN} more" if len(slots) > _SHOWN else "")
