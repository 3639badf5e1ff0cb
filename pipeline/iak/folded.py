"""Fold kernels' weights, so that predicting takes two products for each row instead of five.

An encoder reads inputs u before they are standardised, and the mean code is linear in e:

    a = (u - mean) / scale        u = [h ; what is read of x ; fresh statistics]
    e = ReLU(W1 a + b1)           = ReLU(F u + f), with F = W1 / scale and f = b1 - F mean
    r = U h                       U: the adapters' first matrices
    hidden units += W' Wd (Wm e + bm) + V r + tower_bias
    logits       += Ws    (Wm e + bm)       + bs

V is the adapters' second matrices, and W' the towers' first layer with its adapters. So [F ; U] is
one matrix, which reads u, and what reads [e ; r] is the other one. Before a tail, which has no
adapters and may read a wide h, Wm and [Wd ; Ws] stay apart.

Only predicting folds. Tuning moves the weights, and draws the code. `kernel.run` says what folded
kernels compute, and tests compare them. A kernel is folded by itself, so that it gets the same bits
whatever kernels lie beside it.

Shapes: K slots, I inputs and O outputs of a layer, and the letters of kernel.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from iak.pipeline.iak.kernel import Weights
from iak.pipeline.model.heads import Heads, Tail

_AFTER_RELU = (
    "mean_w", "mean_b", "decode_w", "skip_w", "skip_b", "lora_in", "lora_out", "tower_bias",
)  # fmt: skip


class Layer(NamedTuple):
    """A product and a bias of each slot."""

    w_KIO: Tensor
    b_KO: Tensor
    """Of the first layer's outputs only those that go through a ReLU have one. They come first."""


@torch.no_grad()
def fold(
    weights: Weights, heads: Heads | Tail, mean_KA: Tensor, scale_KA: Tensor
) -> tuple[Layer, ...]:
    """Return the layers of kernels that predict with the mean of the code.

    Args:
        weights: weights of all kernels by name, with a first dimension of K.
        heads: the base's towers, or its tail.
        mean_KA: mean of each kernel's inputs.
        scale_KA: what their differences from it are divided by.
    """
    first_KAO = weights["encode_w"].transpose(1, 2) / scale_KA[:, :, None]
    # In float64 here and below, so that a sum is rounded once.
    moved = [m_A.double() @ w_AO.double() for m_A, w_AO in zip(mean_KA, first_KAO, strict=True)]
    first_b_KO = (weights["encode_b"].double() - torch.stack(moved)).float()
    if isinstance(heads, Tail):
        return Layer(first_KAO, first_b_KO), *_before_tail(weights)
    lora_KRH = torch.stack([torch.block_diag(*lora_TRW) for lora_TRW in weights["lora_in"]])
    # Adapters read h alone, the first inputs.
    lora_KAR = pad(lora_KRH, (0, first_KAO.shape[1] - heads.units)).transpose(1, 2)
    w1_TDW = heads.w1_TWD.transpose(1, 2).double()
    second = [
        _second({name: weights[name][slot].double() for name in _AFTER_RELU}, w1_TDW)
        for slot in range(len(first_KAO))
    ]
    second_KIO, second_b_KO = (torch.stack(parts) for parts in zip(*second, strict=True))
    return (
        Layer(torch.cat([first_KAO, lora_KAR], dim=2), first_b_KO),
        Layer(second_KIO, second_b_KO),
    )


def _before_tail(weights: Weights) -> tuple[Layer, Layer]:
    """Return the layers after the ReLU of kernels that move h itself."""
    decode_KHC = weights["decode_w"]
    no_bias_KH = torch.zeros_like(decode_KHC[:, :, 0])
    return (
        Layer(weights["mean_w"].transpose(1, 2), weights["mean_b"]),
        Layer(
            torch.cat([decode_KHC, weights["skip_w"]], dim=1).transpose(1, 2),
            torch.cat([no_bias_KH, weights["skip_b"]], dim=1),
        ),
    )


def _second(weights: Weights, w1_TDW: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrix and bias of one kernel's second layer, in fp32.

    Args:
        weights: weights of the kernel, in float64.
        w1_TDW: the towers' first layer, in float64.
    """
    tasks, _, width = w1_TDW.shape
    adapted_TDW = w1_TDW + weights["lora_out"] @ weights["lora_in"]
    decode_TWC = weights["decode_w"].unflatten(0, (tasks, width))
    from_code = torch.cat([(adapted_TDW @ decode_TWC).flatten(0, 1), weights["skip_w"]])
    from_lora = pad(torch.block_diag(*weights["lora_out"]), (0, 0, 0, tasks))
    bias = torch.cat([weights["tower_bias"].flatten(), weights["skip_b"]])
    return (
        torch.cat([from_code @ weights["mean_w"], from_lora], dim=1).T.float(),
        (bias + from_code @ weights["mean_b"]).float(),
    )
