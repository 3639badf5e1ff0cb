"""Define one domain's kernel: a stochastic encoder and decoder that correct frozen logits.

    a    = standardise([h ; x])                         what the encoder reads
    e    = ReLU(W1 a + b1)
    mu   = Wm e + bm ;  s = clamp(Wv e + bv, -8, 4)     q(z | a) = N(mu, diag exp s)
    z    = mu + exp(s / 2) * noise                      mu alone when predicting
    rate = KL(q(z | a) || N(m, diag exp v))             nats per row; m, v: the domain's own prior
    h'   = h + Wd z
    logit_t = tower_t(h') + Ws_t z + bs_t

tower_t is a tower with the kernel's adapters (LoRA and a bias), or, on a base of any other shape,
its frozen tail from h to the logits.

Decoders and adapters start at zero, so that a fresh kernel predicts what the base predicts, bit for
bit.

Shapes: B rows, H base units, A encoder inputs, O hidden units, C code units, T tasks, W = H / T
units a tower reads, D hidden units of a tower, R adapter rank.
Source: our reading of "Pre-train and Fine-tune: Recommenders as Large Models" (arXiv 2501.14268);
the rate after Alemi et al. 2017, "Deep variational information bottleneck".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from iak.pipeline.model.heads import Heads, Tail
from iak.schemas.job import KernelSpec

Weights = Mapping[str, Tensor]
LOGVAR_BOUNDS = (-8.0, 4.0)
"""Bounds of ln variance, with which exp and the rate stay finite for any input."""
LOGVAR_START = -3.0
"""First ln variance: a deviation of 0.22, so that a fresh code is mostly its mean."""
ENCODER = ("encode_w", "encode_b", "mean_w", "mean_b", "logvar_w", "logvar_b")
PRIOR = ("prior_mean", "prior_logvar")
PROBE = ("probe_w", "probe_b")
DECODER = ("decode_w", "skip_w", "skip_b", "lora_in", "lora_out", "tower_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelShape:
    """Sizes in units."""

    base: int
    """H."""
    inputs: int
    """A."""
    hidden: int
    """O."""
    code: int
    """C."""
    tasks: int
    """T."""
    tower_in: int
    """W."""
    tower_hidden: int
    """D."""
    rank: int
    """R; 0 for a kernel without adapters."""

    @classmethod
    def on(cls, heads: Heads | Tail, spec: KernelSpec, *, inputs: int) -> "KernelShape":
        """Return the sizes of a kernel on a base.

        Args:
            heads: the base's towers.
            spec: the kernel's settings.
            inputs: A, units that its encoder reads.
        """
        return cls(
            base=heads.units,
            inputs=inputs,
            hidden=spec.hidden,
            code=spec.code,
            tasks=heads.tasks,
            tower_in=heads.width,
            tower_hidden=heads.hidden,
            rank=0 if isinstance(heads, Tail) else spec.adapter_rank,
        )

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight of one kernel.

        The decoder comes first and the probe last, so that the weights that one phase tunes are
        neighbours in a bank.
        """
        t, c, o = self.tasks, self.code, self.hidden
        return {
            "decode_w": (self.base, c),
            "skip_w": (t, c),
            "skip_b": (t,),
            "lora_in": (t, self.rank, self.tower_in),
            "lora_out": (t, self.tower_hidden, self.rank),
            "tower_bias": (t, self.tower_hidden),
            "encode_w": (o, self.inputs),
            "encode_b": (o,),
            "mean_w": (c, o),
            "mean_b": (c,),
            "logvar_w": (c, o),
            "logvar_b": (c,),
            "prior_mean": (c,),
            "prior_logvar": (c,),
            "probe_w": (t, c),
            "probe_b": (t,),
        }


class KernelOutput(NamedTuple):
    """Output of a kernel for B rows."""

    logits_BT: Tensor
    """Adapted logits."""
    probe_BT: Tensor
    """The code's additions to the frozen logits; only the compression phase reads them."""
    rate_B: Tensor
    """Nats per row."""


def fresh(shape: KernelShape, *, seed: int) -> dict[str, Tensor]:
    """Return the weights of a kernel that changes no logit yet.

    Args:
        shape: its sizes.
        seed: seed of the first weights of encoder and adapters; the others are constants.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.zeros(size) for name, size in shape.sizes().items()}
    weights["logvar_b"] += LOGVAR_START
    for name, fan_in in (
        ("encode_w", shape.inputs),
        ("mean_w", shape.hidden),
        ("lora_in", shape.tower_in),
    ):
        bound = 1 / math.sqrt(max(fan_in, 1))  # a tail has no adapters, and their inputs are 0
        weights[name].uniform_(-bound, bound, generator=generator)
    return weights


def run(
    weights: Weights,
    heads: Heads | Tail,
    h_BH: Tensor,
    a_BA: Tensor,
    noise_BC: Tensor | None,
) -> KernelOutput:
    """Run one kernel over rows of its domain. Serving uses it, and tests compare the bank with it.

    Args:
        weights: weights from `fresh`, on the device of the other arguments.
        heads: the base's towers.
        h_BH: the base's representation.
        a_BA: standardised encoder inputs.
        noise_BC: standard normal noise; None to predict with the mean.
    """
    e_BO = linear(a_BA, weights["encode_w"], weights["encode_b"]).relu()
    mean_BC = linear(e_BO, weights["mean_w"], weights["mean_b"])
    logvar_BC = linear(e_BO, weights["logvar_w"], weights["logvar_b"]).clamp(*LOGVAR_BOUNDS)
    z_BC = mean_BC if noise_BC is None else mean_BC + (0.5 * logvar_BC).exp() * noise_BC
    h_BH = h_BH + linear(z_BC, weights["decode_w"])
    logits_BT = heads(h_BH) if isinstance(heads, Tail) else _adapted(weights, heads, h_BH)
    logits_BT = logits_BT + linear(z_BC, weights["skip_w"], weights["skip_b"])
    rate_B = rate(mean_BC, logvar_BC, weights["prior_mean"], weights["prior_logvar"])
    return KernelOutput(logits_BT, linear(z_BC, weights["probe_w"], weights["probe_b"]), rate_B)


def _adapted(weights: Weights, heads: Heads, h_BH: Tensor) -> Tensor:
    """Return the logits of towers with the kernel's adapters."""
    h_BTW = h_BH.unflatten(1, (heads.tasks, heads.width))
    narrow_BTR = torch.einsum("btw,trw->btr", h_BTW, weights["lora_in"])
    shift_BTD = torch.einsum("btr,tdr->btd", narrow_BTR, weights["lora_out"])
    shift_BTD = shift_BTD + weights["tower_bias"]
    return heads.read_out(heads.hidden_units(h_BH) + shift_BTD)


def rate(mean_BC: Tensor, logvar_BC: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp logvar) || N(prior_mean, exp prior_logvar)) in nats per row."""
    wider_BC = logvar_BC - prior_logvar
    # expm1 keeps the digits of exp(w) - 1 - w where both variances are nearly equal.
    distance_BC = (mean_BC - prior_mean).square() * (-prior_logvar).exp()
    return 0.5 * (wider_BC.expm1() - wider_BC + distance_BC).sum(dim=-1)
