"""Step Adam over the slots of a bank: each kernel has its own moments, step count and rate.

Source: Kingma and Ba 2015, "Adam", algorithm 1, by torch's own fused kernel. A bank of K slots
moves as K separate optimisers would.

Shapes: K slots, P slots present in a step, N units of a kernel's row that are tuned.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class BankAdam:
    """Moments of the tuned units of K kernels."""

    def __init__(self, flat_KN: Tensor, *, lr: float) -> None:
        """Start with moments of zero.

        Args:
            flat_KN: the tuned units of the bank's rows, moved in place.
            lr: every slot's first learning rate.
        """
        self.flat_KN = flat_KN
        self.first_KN, self.second_KN = (torch.zeros_like(flat_KN) for _ in range(2))
        self.steps_K = torch.zeros(len(flat_KN), device=flat_KN.device)
        self.lr_K = torch.full((len(flat_KN),), lr, dtype=torch.float64)

    @torch.no_grad()
    def step(
        self, slots: list[int], gradients_PN: Tensor, shares_P: Sequence[float] | None = None
    ) -> None:
        """Move the present slots. The others keep their weights and step counts.

        Args:
            slots: numbers of the P present slots.
            gradients_PN: gradients of their tuned units.
            shares_P: part of its learning rate by which each slot moves; the whole when absent.
        """
        shares_P = shares_P or [1.0] * len(slots)
        # torch's fused kernel takes one rate in a call, so slots with equal rates share a call.
        by_rate: dict[float, list[int]] = {}
        for index, (lr, share) in enumerate(zip(self.lr_K[slots].tolist(), shares_P, strict=True)):
            by_rate.setdefault(lr * share, []).append(index)
        for lr, indices in by_rate.items():
            moved = [slots[index] for index in indices]
            adam(
                params=[self.flat_KN[slot] for slot in moved],
                grads=[gradients_PN[index] for index in indices],
                exp_avgs=[self.first_KN[slot] for slot in moved],
                exp_avg_sqs=[self.second_KN[slot] for slot in moved],
                max_exp_avg_sqs=[],
                # Each slot has its own count, on which Adam's bias correction depends.
                state_steps=[self.steps_K[slot] for slot in moved],
                fused=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=lr,
                weight_decay=0.0,
                eps=EPS,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Return everything a resumed run needs."""
        return {
            "first": self.first_KN,
            "second": self.second_KN,
            "steps": self.steps_K,
            "lr": self.lr_K,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state`."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def rate_shares(done_P: Tensor, all_P: Tensor, *, decay_share: float) -> list[float]:
    """Return the share of its learning rate that each slot has left; it falls linearly to zero.

    Args:
        done_P: steps that each slot has taken.
        all_P: steps that it may take, at least one.
        decay_share: share of these steps, at their end, over which the rate falls; with 0 it stays.
    """
    if not decay_share:
        return [1.0] * len(done_P)
    left_P = 1 - done_P / all_P
    return (left_P / decay_share).clamp(0, 1).tolist()
