"""K kernels held as stacked tensors and run in one pass: each row activates its domain's kernel.

A training step takes out the slots that have rows in it, works on those alone, and puts them back:
absent domains cost nothing, and their optimiser does not move.

Shapes: as in kernel.py; K slots in the bank, P slots present in a pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.iak.grouped import grouped_linear, spread
from pipeline.iak.kernel import (
    LOGVAR_BOUNDS,
    KernelOutput,
    KernelShape,
    Weights,
    fresh,
    rate,
    tower,
)
from pipeline.model.heads import Heads


@dataclass(slots=True)
class Bank:
    """Stacked weights: `weights[name]` has the shape of one kernel's weight after a first K."""

    shape: KernelShape
    names: tuple[str, ...]
    """The domain in each slot."""
    weights: dict[str, Tensor]

    def slot(self, index: int) -> dict[str, Tensor]:
        """A copy of one kernel's weights."""
        return {name: stacked[index].clone() for name, stacked in self.weights.items()}

    def to(self, device: torch.device) -> "Bank":
        """The same kernels on a device."""
        weights = {name: stacked.to(device) for name, stacked in self.weights.items()}
        return Bank(shape=self.shape, names=self.names, weights=weights)

    def take(self, slots: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Copies of the present slots' weights; those named are leaves that gather gradients."""
        taken = {name: stacked.index_select(0, slots) for name, stacked in self.weights.items()}
        for name in names:
            taken[name].requires_grad_()
        return taken


def fresh_bank(shape: KernelShape, names: Sequence[str], *, seed: int) -> Bank:
    """A bank of kernels that change nothing yet, all with the same first weights."""
    return stack(shape, {name: fresh(shape, seed=seed) for name in names})


def stack(shape: KernelShape, kernels: Mapping[str, Weights]) -> Bank:
    """The bank of these kernels, in their order."""
    weights = {
        name: torch.stack([k[name] for k in kernels.values()])
        if kernels
        else torch.zeros((0, *size))
        for name, size in shape.sizes().items()
    }
    return Bank(shape=shape, names=tuple(kernels), weights=weights)


def run(
    weights: Weights,
    heads: Heads,
    h_BH: Tensor,
    a_BA: Tensor,
    noise_BC: Tensor | None,
    bounds: Sequence[int],
) -> KernelOutput:
    """Rows sorted by slot through their kernels; the same story as `kernel.run`, slot by slot.

    Args:
        weights: of the P slots present.
        heads: the base's towers.
        h_BH: the base's representation.
        a_BA: standardised encoder inputs.
        noise_BC: standard normal noise; None to predict with the mean.
        bounds: P row numbers, where each slot's rows end; the last is B.
    """
    e_BO = grouped_linear(a_BA, weights["encode_w"], weights["encode_b"], bounds).relu()
    mean_BC = grouped_linear(e_BO, weights["mean_w"], weights["mean_b"], bounds)
    logvar_BC = grouped_linear(e_BO, weights["logvar_w"], weights["logvar_b"], bounds)
    logvar_BC = logvar_BC.clamp(*LOGVAR_BOUNDS)
    z_BC = mean_BC if noise_BC is None else mean_BC + (0.5 * logvar_BC).exp() * noise_BC
    h_BH = h_BH + grouped_linear(z_BC, weights["decode_w"], None, bounds)
    h_BTW = h_BH.unflatten(1, (heads.tasks, heads.width))
    shift_BTD = _tower_shift(weights, h_BTW, bounds)
    skip_BT = grouped_linear(z_BC, weights["skip_w"], weights["skip_b"], bounds)
    probe_BT = grouped_linear(z_BC, weights["probe_w"], weights["probe_b"], bounds)
    prior_BC = (spread(weights["prior_mean"], bounds), spread(weights["prior_logvar"], bounds))
    return KernelOutput(
        logits_BT=tower(heads, h_BTW, shift_BTD) + skip_BT,
        probe_BT=probe_BT,
        rate_B=rate(mean_BC, logvar_BC, *prior_BC),
    )


def _tower_shift(weights: Weights, h_BTW: Tensor, bounds: Sequence[int]) -> Tensor:
    """What each slot's adapters add to the towers' hidden units."""
    shifts = []
    for task, h_BW in enumerate(h_BTW.unbind(1)):
        narrow_BR = grouped_linear(h_BW, weights["lora_in"][:, task], None, bounds)
        shift_BD = grouped_linear(narrow_BR, weights["lora_out"][:, task], None, bounds)
        shifts.append(shift_BD + spread(weights["tower_bias"][:, task], bounds))
    return torch.stack(shifts, dim=1)
