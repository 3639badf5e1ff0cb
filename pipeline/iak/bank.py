"""Store K kernels in one matrix, a bank, and run them together over rows sorted by domain.

Each row of the matrix contains the weights of one kernel, one weight after the other at fixed
offsets. A kernel's weights, gradients and moments are therefore contiguous, and one call can send
or update them all. `Bank.weights` are views into the matrix.

Shapes: K slots, N units of a kernel's row, P slots present in a step, C code units, R adapter rank,
and the letters of kernel.py.
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
from iak.pipeline.model.heads import Heads, Tail

_ALIGN = 16
"""Weights begin at multiples of this many units. That is 64 bytes of fp32; grouped products need
aligned weights (grouped.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The units of a kernel's row that one weight takes."""

    start: int
    size: tuple[int, ...]
    """Shape of the weight."""

    @property
    def stop(self) -> int:
        """Return the unit after its last."""
        return self.start + math.prod(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """K kernels of one shape."""

    shape: KernelShape
    names: tuple[str, ...]
    """The domain of each slot."""
    flat_KN: Tensor
    """Every kernel's weights, in the order of `spans`, with zeros in the gaps."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name as views, with a first dimension of K."""
        return views(self.flat_KN, self.shape)

    def slot(self, index: int) -> dict[str, Tensor]:
        """Return a copy of one kernel's weights."""
        return {name: stacked[index].clone() for name, stacked in self.weights.items()}

    def to(self, device: torch.device) -> "Bank":
        """Return the same kernels on a device."""
        return Bank(shape=self.shape, names=self.names, flat_KN=self.flat_KN.to(device))

    def part(self, slots: slice) -> "Bank":
        """Return some neighbouring kernels as a bank that shares this one's memory."""
        return Bank(shape=self.shape, names=self.names[slots], flat_KN=self.flat_KN[slots])

    def clone(self) -> "Bank":
        """Return a copy of the bank in memory of its own.

        Kernels that share memory here (see `repeated`) no longer share it in the copy.
        """
        flat_KN = self.flat_KN.clone(memory_format=torch.contiguous_format)
        return Bank(shape=self.shape, names=self.names, flat_KN=flat_KN)

    def like(self) -> "Bank":
        """Return a bank of the same size, whose memory is not initialised."""
        flat_KN = torch.empty_like(self.flat_KN, memory_format=torch.contiguous_format)
        return Bank(shape=self.shape, names=self.names, flat_KN=flat_KN)


def spans(shape: KernelShape) -> dict[str, Span]:
    """Return the units of every weight in a kernel's row."""
    by_name: dict[str, Span] = {}
    start = 0
    for name, size in shape.sizes().items():
        by_name[name] = Span(start=start, size=size)
        start = -(-by_name[name].stop // _ALIGN) * _ALIGN
    return by_name


def units(shape: KernelShape) -> int:
    """Return N, the units of a kernel's row, gaps between weights included."""
    return -(-max(span.stop for span in spans(shape).values()) // _ALIGN) * _ALIGN


def range_of(shape: KernelShape, names: Sequence[str]) -> slice:
    """Return the units of some weights that are neighbours in a kernel's row, gaps included."""
    by_name = spans(shape)
    order = list(by_name)
    indices = sorted(order.index(name) for name in names)
    first, last = indices[0], indices[-1]
    assert indices == list(range(first, last + 1)), f"{names} are not neighbours in {order}"
    is_end = last + 1 == len(order)
    stop = units(shape) if is_end else by_name[order[last + 1]].start
    return slice(by_name[order[first]].start, stop)


def views(flat_PN: Tensor, shape: KernelShape) -> dict[str, Tensor]:
    """Return the weights of P kernels by name, as views into `flat_PN`."""
    return {
        name: flat_PN[:, span.start : span.stop].unflatten(1, span.size)
        for name, span in spans(shape).items()
    }


def fresh_bank(shape: KernelShape, names: Sequence[str], *, seed: int) -> Bank:
    """Return a bank of kernels that change no logit yet, all with the same first weights."""
    return stack(shape, {name: fresh(shape, seed=seed) for name in names})


def stack(shape: KernelShape, kernels: Mapping[str, Weights]) -> Bank:
    """Copy kernels into a bank, in their order.

    Args:
        shape: shape of each kernel.
        kernels: domain -> weights by name.
    """
    bank = Bank(shape=shape, names=tuple(kernels), flat_KN=torch.zeros(len(kernels), units(shape)))
    for name, stacked in bank.weights.items():
        for slot, kernel in enumerate(kernels.values()):
            stacked[slot] = kernel[name]
    return bank


def repeated(shape: KernelShape, kernel: Weights, names: Sequence[str]) -> Bank:
    """Return a bank in which every domain starts from this kernel.

    All slots share the memory of one: read it, or `clone` it before writing.
    """
    one = stack(shape, {names[0]: kernel})
    return Bank(shape=shape, names=tuple(names), flat_KN=one.flat_KN.expand(len(names), -1))


class Code(NamedTuple):
    """Output of the encoder for B rows."""

    z_BC: Tensor
    """The code."""
    rate_B: Tensor
    """Its KL divergence from the domain's prior, in nats."""


def encode(weights: Weights, a_BA: Tensor, noise_BC: Tensor | None, rows: Segments) -> Code:
    """Encode each row with its own slot's encoder.

    Args:
        weights: weights of the P slots present.
        a_BA: standardised encoder inputs, sorted by slot. Where they are bfloat16, so is their
            product with the encoder.
        noise_BC: standard normal noise; None to predict with the mean.
        rows: end of each slot's rows.
    """
    wide_BO = grouped_linear(a_BA, weights["encode_w"].to(a_BA.dtype), None, rows)
    e_BO = (wide_BO.to(weights["encode_b"].dtype) + spread(weights["encode_b"], rows)).relu()
    # One grouped product instead of two: for so few outputs a call costs more than its FLOPs.
    both_w = torch.cat([weights["mean_w"], weights["logvar_w"]], dim=1)
    both_b = torch.cat([weights["mean_b"], weights["logvar_b"]], dim=1)
    mean_BC, logvar_BC = grouped_linear(e_BO, both_w, both_b, rows).chunk(2, dim=1)
    logvar_BC = logvar_BC.clamp(*LOGVAR_BOUNDS)
    z_BC = mean_BC if noise_BC is None else mean_BC + (0.5 * logvar_BC).exp() * noise_BC
    prior_BC = (spread(weights[name], rows) for name in ("prior_mean", "prior_logvar"))
    return Code(z_BC=z_BC, rate_B=rate(mean_BC, logvar_BC, *prior_BC))


def probe(weights: Weights, z_BC: Tensor, rows: Segments) -> Tensor:
    """Return the code's additions to the frozen logits in compression, `probe_BT`."""
    return grouped_linear(z_BC, weights["probe_w"], weights["probe_b"], rows)


def decode(
    weights: Weights, heads: Heads | Tail, h_BH: Tensor, z_BC: Tensor, rows: Segments
) -> Tensor:
    """Return adapted logits_BT: the code shifts h, and adapters change the towers that read it.

    The decoder is multiplied with the towers' first layer once per slot instead of once per row:
    h' W1 = h W1 + z (Wd W1), and likewise for the adapters. No row's h is copied or changed, and
    the backward pass touches the units of code and towers alone.

    Args:
        weights: weights of the P slots present.
        heads: the base's towers.
        h_BH: the base's representation, sorted by slot.
        z_BC: codes of these rows.
        rows: end of each slot's rows.
    """
    if isinstance(heads, Tail):
        return _through_tail(weights, heads, h_BH, z_BC, rows)
    tasks, rank = heads.tasks, weights["lora_in"].shape[2]
    parts = from_code(weights, heads)
    # One product for everything that reads the code; its columns are split again afterwards.
    sizes = [part.shape[1] for part in parts]
    shift_BX, skip_BT, *narrow = grouped_linear(z_BC, torch.cat(parts, dim=1), None, rows).split(
        sizes, dim=1
    )
    shift_BX = shift_BX + spread(weights["tower_bias"].flatten(1), rows)
    if rank:
        narrow_BX = narrow[0] + grouped_linear(h_BH, block_diagonal(weights["lora_in"]), None, rows)
        shift_BX = shift_BX + grouped_linear(
            narrow_BX, block_diagonal(weights["lora_out"]), None, rows
        )
    hidden_BTD = heads.hidden_units(h_BH) + shift_BX.unflatten(1, (tasks, heads.hidden))
    adapted_BT: Tensor = skip_BT + spread(weights["skip_b"], rows) + heads.read_out(hidden_BTD)
    return adapted_BT


def _through_tail(
    weights: Weights, tail: Tail, h_BH: Tensor, z_BC: Tensor, rows: Segments
) -> Tensor:
    """Return adapted logits_BT of a base of any shape: h is moved, then the tail runs."""
    moved_BH = h_BH + grouped_linear(z_BC, weights["decode_w"], None, rows)
    skip_BT = grouped_linear(z_BC, weights["skip_w"], weights["skip_b"], rows)
    adapted_BT: Tensor = tail(moved_BH) + skip_BT
    return adapted_BT


def run(
    weights: Weights,
    heads: Heads | Tail,
    h_BH: Tensor,
    a_BA: Tensor,
    noise_BC: Tensor | None,
    rows: Segments,
) -> KernelOutput:
    """Run each row through its own slot's kernel, as `kernel.run` does for a single kernel.

    Args:
        weights: weights of the P slots present.
        heads: the base's towers.
        h_BH: the base's representation, sorted by slot.
        a_BA: standardised encoder inputs of these rows.
        noise_BC: standard normal noise; None to predict with the mean.
        rows: end of each slot's rows.
    """
    code = encode(weights, a_BA, noise_BC, rows)
    return KernelOutput(
        logits_BT=decode(weights, heads, h_BH, code.z_BC, rows),
        probe_BT=probe(weights, code.z_BC, rows),
        rate_B=code.rate_B,
    )


def from_code(weights: Weights, heads: Heads | Tail) -> list[Tensor]:
    """Return the matrices that read the code: of the towers' hidden units, the skip, the adapters.

    Before a tail, the first one is the decoder itself. Without adapters there is no third one.

    Args:
        weights: weights of the P slots present.
        heads: the base's towers, or its tail.
    """
    if isinstance(heads, Tail):
        return [weights["decode_w"], weights["skip_w"]]
    moved_PTWC = weights["decode_w"].unflatten(1, (heads.tasks, heads.width))
    through_PTDC = torch.einsum("ptwc,twd->ptdc", moved_PTWC, heads.w1_TWD)
    parts = [through_PTDC.flatten(1, 2), weights["skip_w"]]
    if weights["lora_in"].shape[2]:
        narrow_PTRC = weights["lora_in"] @ moved_PTWC
        parts.append(narrow_PTRC.flatten(1, 2))
    return parts


def block_diagonal(weight_PTOI: Tensor) -> Tensor:
    """Return each slot's matrices of all tasks as one block-diagonal matrix, (P, T * O, T * I)."""
    # The zeros cost less than a grouped product for each task.
    tasks = torch.eye(weight_PTOI.shape[1], dtype=weight_PTOI.dtype, device=weight_PTOI.device)
    wide = torch.einsum("ptoi,tu->ptoui", weight_PTOI, tasks)
    return wide.flatten(3, 4).flatten(1, 2)
