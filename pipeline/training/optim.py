"""Adam over the slots of a bank: each kernel has its own moments and its own step count.

Source: Kingma and Ba 2015, "Adam", algorithm 1, as torch.optim.Adam computes it; a bank of K
slots moves as K separate optimisers would.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class BankAdam:
    """Moments of the named weights of K kernels."""

    def __init__(self, weights: Mapping[str, Tensor], names: Sequence[str], *, lr: float) -> None:
        """Start at rest.

        Args:
            weights: stacked weights, a first dimension of K slots each.
            names: which of them are tuned.
            lr: the rate.
        """
        self.names, self.lr = tuple(names), lr
        self.first = {name: torch.zeros_like(weights[name]) for name in names}
        self.second = {name: torch.zeros_like(weights[name]) for name in names}
        any_weight = next(iter(weights.values()))
        self.steps_K = torch.zeros(len(any_weight), dtype=torch.int64, device=any_weight.device)

    @torch.no_grad()
    def step(
        self, weights: Mapping[str, Tensor], slots: Tensor, gradients: Mapping[str, Tensor]
    ) -> None:
        """Move the present slots' weights; the others stay, and so do their step counts.

        Args:
            weights: stacked weights of all K slots, changed in place.
            slots: P slot numbers.
            gradients: by name, of the P present slots.
        """
        self.steps_K[slots] += 1
        for name in self.names:
            grad = gradients[name]
            first = self.first[name].index_select(0, slots).lerp_(grad, 1 - BETA1)
            second = self.second[name].index_select(0, slots)
            second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
            self.first[name].index_copy_(0, slots, first)
            self.second[name].index_copy_(0, slots, second)
            count = self.steps_K[slots].to(torch.float64).view(-1, *[1] * (grad.ndim - 1))
            scale = (1 - BETA2**count).sqrt()
            rate = (self.lr / (1 - BETA1**count)).to(grad.dtype)
            denominator = (second.sqrt() / scale.to(grad.dtype)).add_(EPS)
            weights[name].index_add_(0, slots, -rate * first / denominator)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs."""
        moments = {f"first.{n}": t for n, t in self.first.items()}
        return (
            moments | {f"second.{n}": t for n, t in self.second.items()} | {"steps": self.steps_K}
        )

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        for name in self.names:
            self.first[name].copy_(state[f"first.{name}"])
            self.second[name].copy_(state[f"second.{name}"])
        self.steps_K.copy_(state["steps"])
