"""Choose the weight of the rate, beta: a constant, or what keeps each kernel's code at a rate.

With a target, beta follows the mean rate of each step. With the error e = ln(rate / target), which
is cut to [-MAX_ERROR, MAX_ERROR]:

    integral <- clamp(integral + INTEGRAL * e)      ln beta = clamp(integral + PROPORTIONAL * e)

A code that keeps too much makes its rate dearer, and the other way round. The proportional part
answers at once and damps the oscillation that an integral alone has. Logarithms are used, because
rates and betas differ by orders of magnitude between logs.

Source: Shao et al. 2020, "ControlVAE: Controllable Variational Autoencoder", for the controller.
Here it works on logarithms, and each domain has its own.

Shapes: K slots, P slots present in a step.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-8, 100.0
"""Bounds of a beta that follows a target. A rate beyond its reach is missed, and nothing diverges.
"""
INTEGRAL, PROPORTIONAL = 0.1, 0.5
MAX_ERROR = 2.0
"""Largest error of one step, so that a first step far from the target does not decide the rest."""


class Beta:
    """The weight of the rate of every slot."""

    def __init__(self, slots: int, *, start: float, target: float | None) -> None:
        """Begin with the same weight for all slots.

        Args:
            slots: K.
            start: weight of the rate; where a target is given, the one before the first step.
            target: nats a row that each code is to keep; None for a constant weight.
        """
        self.start, self.target = start, target
        first = min(max(start, LOWEST), HIGHEST)
        # float64: a constant of the settings is recorded as it was written.
        self.beta_K = torch.full((slots,), first if target else start, dtype=torch.float64)
        self.integral_K = torch.full((slots,), math.log(first), dtype=torch.float64)

    def of(self, slots: Sequence[int]) -> float | Tensor:
        """Return the weight of these slots: one number where it is a constant, else (P,)."""
        return self.start if self.target is None else self.beta_K[list(slots)].float()

    def follow(self, slots: Sequence[int], rows_P: Tensor, nats_P: Tensor) -> None:
        """Move the weight of these slots towards the target, after a step.

        Args:
            slots: slots of the step.
            rows_P: rows of each, of all workers. A slot without rows stays as it is.
            nats_P: sum of its rows' rates. One that is not finite changes nothing.
        """
        if self.target is None:
            return
        seen_P = (rows_P > 0) & nats_P.isfinite()
        at = torch.tensor(list(slots))[seen_P]
        error_P = (nats_P[seen_P] / rows_P[seen_P] / self.target).log()
        error_P = error_P.clamp(-MAX_ERROR, MAX_ERROR)
        low, high = math.log(LOWEST), math.log(HIGHEST)
        # The integral stays within the bounds too. Otherwise it would take as long to come back.
        self.integral_K[at] = (self.integral_K[at] + INTEGRAL * error_P).clamp(low, high)
        self.beta_K[at] = (self.integral_K[at] + PROPORTIONAL * error_P).clamp(low, high).exp()

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs; nothing where the weight is a constant."""
        if self.target is None:
            return {}
        return {"beta": self.beta_K, "beta_integral": self.integral_K}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        if self.target is not None and "beta" in state:
            self.beta_K, self.integral_K = state["beta"], state["beta_integral"]
