"""A bank: K kernels as one matrix, a row a kernel, run together over rows sorted by domain.

A row of the matrix holds the weights of one kernel end to end, each at a fixed place, so that a
kernel's moments, gradients and traffic are single runs of memory; `weights` are views into it.

Shapes: K slots, N units of a kernel's row, P slots present, C code units, R adapter rank, the
letters of kernel.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iak.pipeline.iak.grouped import Segments, grouped_linear, spread
from iak.pipeline.iak.kernel import (
    LOGVAR_BOUNDS,
    KernelOutput,
    KernelShape,
    Weights,
    fresh,
    rate,
)
from iak.pipeline.model.heads import Heads

_ALIGN = 16
"""Units at multiples of which a weight begins: 64 bytes of fp32, which grouped products ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one weight lies in a kernel's row."""

    start: int
    size: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The unit after its last."""
        return self.start + math.prod(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """K kernels of one shape."""

    shape: KernelShape
    names: tuple[str, ...]
    """The domain in each slot."""
    flat_KN: Tensor
    """Every kernel's weights, in the order of `spans`."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, live, with a first dimension of K."""
        return views(self.flat_KN, self.shape)

    def slot(self, index: int) -> dict[str, Tensor]:
        """A copy of one kernel's weights."""
        return {name: stacked[index].clone() for name, stacked in self.weights.items()}

    def to(self, device: torch.device) -> "Bank":
        """The same kernels on a device."""
        return Bank(shape=self.shape, names=self.names, flat_KN=self.flat_KN.to(device))

    def part(self, slots: slice) -> "Bank":
        """Neighbouring kernels, in the memory that they have here."""
        return Bank(shape=self.shape, names=self.names[slots], flat_KN=self.flat_KN[slots])

    def clone(self) -> "Bank":
        """The same kernels, each in memory of its own."""
        flat_KN = self.flat_KN.clone(memory_format=torch.contiguous_format)
        return Bank(shape=self.shape, names=self.names, flat_KN=flat_KN)

    def like(self) -> "Bank":
        """A bank of the same size, its memory not yet written."""
        flat_KN = torch.empty_like(self.flat_KN, memory_format=torch.contiguous_format)
        return Bank(shape=self.shape, names=self.names, flat_KN=flat_KN)


def spans(shape: KernelShape) -> dict[str, Span]:
    """The place of every weight in a kernel's row."""
    places: dict[str, Span] = {}
    start = 0
    for name, size in shape.sizes().items():
        places[name] = Span(start=start, size=size)
        start = -(-places[name].stop // _ALIGN) * _ALIGN
    return places


def units(shape: KernelShape) -> int:
    """N, gaps included."""
    return -(-max(span.stop for span in spans(shape).values()) // _ALIGN) * _ALIGN


def range_of(shape: KernelShape, names: Sequence[str]) -> slice:
    """The units that hold these weights, which must stand side by side, gaps included."""
    places = spans(shape)
    order = list(places)
    at = sorted(order.index(name) for name in names)
    assert at == list(range(at[0], at[-1] + 1)), f"{names} do not stand side by side"
    is_last = at[-1] + 1 == len(order)
    stop = units(shape) if is_last else places[order[at[-1] + 1]].start
    return slice(places[order[at[0]]].start, stop)


def views(flat_PN: Tensor, shape: KernelShape) -> dict[str, Tensor]:
    """The weights of P kernels by name, in the memory of `flat_PN`."""
    return {
        name: flat_PN[:, span.start : span.stop].unflatten(1, span.size)
        for name, span in spans(shape).items()
    }


def fresh_bank(shape: KernelShape, names: Sequence[str], *, seed: int) -> Bank:
    """A bank of kernels that change nothing yet, all with the same first weights."""
    return stack(shape, {name: fresh(shape, seed=seed) for name in names})


def stack(shape: KernelShape, kernels: Mapping[str, Weights]) -> Bank:
    """The bank of these kernels, in their order."""
    bank = Bank(shape=shape, names=tuple(kernels), flat_KN=torch.zeros(len(kernels), units(shape)))
    for name, stacked in bank.weights.items():
        for slot, kernel in enumerate(kernels.values()):
            stacked[slot] = kernel[name]
    return bank


def repeated(shape: KernelShape, kernel: Weights, names: Sequence[str]) -> Bank:
    """A bank to start from, in which every domain has this one kernel, in the memory of one."""
    one = stack(shape, {names[0]: kernel})
    return Bank(shape=shape, names=tuple(names), flat_KN=one.flat_KN.expand(len(names), -1))


class Code(NamedTuple):
    """A row's code, and the nats it carries."""

    z_BC: Tensor
    rate_B: Tensor


def encode(weights: Weights, a_BA: Tensor, noise_BC: Tensor | None, rows: Segments) -> Code:
    """Rows sorted by slot through their encoders.

    Args:
        weights: of the P slots present.
        a_BA: standardised encoder inputs; in bfloat16, their product with the encoder is too.
        noise_BC: standard normal noise; None to predict with the mean.
        rows: which are whose.
    """
    wide_BO = grouped_linear(a_BA, weights["encode_w"].to(a_BA.dtype), None, rows)
    e_BO = (wide_BO.to(weights["encode_b"].dtype) + spread(weights["encode_b"], rows)).relu()
    both_w = torch.cat([weights["mean_w"], weights["logvar_w"]], dim=1)
    both_b = torch.cat([weights["mean_b"], weights["logvar_b"]], dim=1)
    mean_BC, logvar_BC = grouped_linear(e_BO, both_w, both_b, rows).chunk(2, dim=1)
    logvar_BC = logvar_BC.clamp(*LOGVAR_BOUNDS)
    z_BC = mean_BC if noise_BC is None else mean_BC + (0.5 * logvar_BC).exp() * noise_BC
    prior_BC = (spread(weights[name], rows) for name in ("prior_mean", "prior_logvar"))
    return Code(z_BC=z_BC, rate_B=rate(mean_BC, logvar_BC, *prior_BC))


def probe(weights: Weights, z_BC: Tensor, rows: Segments) -> Tensor:
    """What the code alone adds to the frozen logits in compression, `probe_BT`."""
    return grouped_linear(z_BC, weights["probe_w"], weights["probe_b"], rows)


def decode(weights: Weights, heads: Heads, h_BH: Tensor, z_BC: Tensor, rows: Segments) -> Tensor:
    """Adapted logits_BT: the code moves the representation, adapters the towers that read it.

    What the code adds is carried through the towers' first layer a slot at a time, not a row at a
    time: h' W1 = h W1 + z (Wd W1), and the same for the adapters. So no row's h is copied or
    changed, and backward never leaves the units of the code and the towers.
    """
    tasks, width = heads.tasks, heads.width
    moved_PTWC = weights["decode_w"].unflatten(1, (tasks, width))
    through_PTDC = torch.einsum("ptwc,twd->ptdc", moved_PTWC, heads.w1_TWD)
    from_code = [through_PTDC.flatten(1, 2), weights["skip_w"]]
    rank = weights["lora_in"].shape[2]
    if rank:
        narrow_PTRC = weights["lora_in"] @ moved_PTWC
        from_code.append(narrow_PTRC.flatten(1, 2))
    sizes = [part.shape[1] for part in from_code]
    shift_BX, skip_BT, *narrow = grouped_linear(
        z_BC, torch.cat(from_code, dim=1), None, rows
    ).split(sizes, dim=1)
    shift_BX = shift_BX + spread(weights["tower_bias"].flatten(1), rows)
    if rank:
        narrow_BX = narrow[0] + grouped_linear(h_BH, _apart(weights["lora_in"]), None, rows)
        shift_BX = shift_BX + grouped_linear(narrow_BX, _apart(weights["lora_out"]), None, rows)
    hidden_BTD = heads.hidden_units(h_BH) + shift_BX.unflatten(1, (tasks, heads.hidden))
    adapted_BT: Tensor = skip_BT + spread(weights["skip_b"], rows) + heads.read_out(hidden_BTD)
    return adapted_BT


def run(
    weights: Weights,
    heads: Heads,
    h_BH: Tensor,
    a_BA: Tensor,
    noise_BC: Tensor | None,
    rows: Segments,
) -> KernelOutput:
    """Rows sorted by slot through their kernels; the same story as `kernel.run`, slot by slot.

    Args:
        weights: of the P slots present.
        heads: the base's towers.
        h_BH: the base's representation.
        a_BA: standardised encoder inputs.
        noise_BC: standard normal noise; None to predict with the mean.
        rows: which are whose.
    """
    code = encode(weights, a_BA, noise_BC, rows)
    return KernelOutput(
        logits_BT=decode(weights, heads, h_BH, code.z_BC, rows),
        probe_BT=probe(weights, code.z_BC, rows),
        rate_B=code.rate_B,
    )


def _apart(weight_PTOI: Tensor) -> Tensor:
    """The tasks' matrices of each slot as one, (P, T * O, T * I), that keeps the tasks apart."""
    tasks = torch.eye(weight_PTOI.shape[1], dtype=weight_PTOI.dtype, device=weight_PTOI.device)
    wide = torch.einsum("ptoi,tu->ptoui", weight_PTOI, tasks)
    return wide.flatten(3, 4).flatten(1, 2)
