"""The loss of both phases: what it is made of, and that its gradients are its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.iak.loss import bottleneck_loss
from iak.pipeline.model.loss import share_of_mean, task_losses
from tests.unit.iak.small import SHAPE, TASKS, moved_kernel, normal, small_heads, tuning_rows

ROWS = 30
COUNTS = (12, 0, 18)
SEGMENTS = Segments.of(COUNTS)
KERNELS = {str(k): moved_kernel(k) for k in range(3)}


def loss_of(weights, phase, beta, heads, dtype=torch.float32):
    rows = tuning_rows(ROWS, 3)
    h_BH = rows.activations.h.to(dtype)
    a_BA, noise_BC = (normal(ROWS, n, seed=n).to(dtype) for n in (SHAPE.inputs, SHAPE.code))
    output = banks.run(weights, heads, h_BH, a_BA, noise_BC, SEGMENTS)
    labelled = [part.sum(0) for part in rows.mask_nT.split(COUNTS)]
    judged = heads(h_BH) + output.probe_BT if phase == "compression" else output.logits_BT
    loss = bottleneck_loss(
        judged, output.rate_B, labels_BT=rows.labels_nT.to(dtype), mask_BT=rows.mask_nT,
        tasks=TASKS, labelled_PT=torch.stack(labelled), rows_P=torch.tensor(COUNTS),
        rows=SEGMENTS, beta=beta,
    )  # fmt: skip
    return loss.share_P.sum(), output, rows


@pytest.mark.parametrize("phase", ["compression", "matching"])
def test_without_a_price_the_loss_is_each_domains_mean_task_loss(phase):
    heads = small_heads()
    loss, output, rows = loss_of(stack(SHAPE, KERNELS).weights, phase, 0.0, heads)
    judged = output.logits_BT
    if phase == "compression":
        judged = heads(rows.activations.h) + output.probe_BT
    expected = 0.0
    for part in (slice(0, 12), slice(12, 30)):
        losses = task_losses(judged[part], rows.labels_nT[part], rows.mask_nT[part], TASKS)
        expected += share_of_mean(losses, counts_T=rows.mask_nT[part].sum(0), tasks=TASKS)
    torch.testing.assert_close(loss, expected)


@given(st.floats(0, 10), st.sampled_from(["compression", "matching"]))
def test_the_price_is_paid_on_each_domains_mean_rate(beta, phase):
    weights, heads = stack(SHAPE, KERNELS).weights, small_heads()
    free, output, _ = loss_of(weights, phase, 0.0, heads)
    priced, _, _ = loss_of(weights, phase, beta, heads)
    rate = sum(part.mean() for part in output.rate_B.split(COUNTS) if len(part))
    torch.testing.assert_close(priced, free + beta * rate)


@pytest.mark.parametrize("phase", ["compression", "matching"])
def test_gradients_are_finite_differences(phase):
    heads = small_heads().double()
    weights = {n: w.double() for n, w in stack(SHAPE, KERNELS).weights.items()}
    names = [n for n in weights if n not in (kernel.DECODER if phase == "compression" else ())]
    if phase == "matching":
        names = [n for n in names if n not in kernel.PROBE]

    def loss(*given):
        joined = weights | dict(zip(names, given, strict=True))
        return loss_of(joined, phase, 0.3, heads, torch.float64)[0]

    inputs = [weights[n].clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(loss, inputs)


def test_compression_teaches_no_decoder_and_matching_no_probe():
    weights = stack(SHAPE, KERNELS).weights
    for phase, idle in (("compression", kernel.DECODER), ("matching", kernel.PROBE)):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        loss, _, _ = loss_of(leaves, phase, 0.1, small_heads())
        loss.backward()
        assert {n for n, w in leaves.items() if w.grad is None or not w.grad.any()} == set(idle)


def test_the_base_gathers_no_gradient():
    heads = small_heads()
    assert not any(p.requires_grad for p in heads.parameters())
    assert not heads(normal(3, SHAPE.base)).requires_grad
