"""Stop a run whose loss is no number: no later step mends it, and no second attempt either."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from iak.pipeline.collectives import greatest
from iak.pipeline.errors import Diverged
from iak.pipeline.process import Worker

_SHOWN = 3


def refuse_diverged(loss: float, *, where: str, rates: Mapping[str, float]) -> None:
    """Do nothing while the loss is finite.

    Args:
        loss: summed over all workers, so that all of them stop at the same step.
        where: which loss it is, and when: `the training loss at step 3 of 100`.
        rates: setting -> its learning rate as it was asked for; the first one is to be lowered
            first.

    Raises:
        Diverged: the loss is infinite or no number.
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
        losses: of this worker, a step each; every worker has as many.
        worker: this process.
    """
    broken = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
    first = broken[0] if broken else len(losses)
    return -greatest((-first,), worker)[0]


def broken_names(losses_K: Tensor, wanted_K: Tensor, names: Sequence[str]) -> str:
    """Return the slots among the wanted ones whose loss is not finite, some of them by name."""
    slots = torch.nonzero(~losses_K.isfinite() & wanted_K).flatten().tolist()
    shown = ", ".join(names[slot] for slot in slots[:_SHOWN])
    return shown + (f" and {len(slots) - _SHOWN} more" if len(slots) > _SHOWN else "")
