"""What a kernel adds, in three ways: their sum is the kernel's logit, and each is its weights'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak import bank as banks
from iak.pipeline.iak import kernel
from iak.pipeline.iak.contributions import contributions
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.model.heads import Tail
from tests.unit.iak.small import SHAPE, moved_kernel, normal, small_heads

H = normal(5, SHAPE.base, seed=1)
A = normal(5, SHAPE.inputs, seed=2)
WAYS = {
    "through_h_BT": ("decode_w",),
    "through_adapters_BT": ("lora_out", "tower_bias"),
    "through_skip_BT": ("skip_w", "skip_b"),
}
ZERO_AT_FIRST = [name for names in WAYS.values() for name in names]


@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 2.0), rows=st.integers(1, 12))
def test_base_and_ways_sum_to_what_a_bank_of_kernels_predicts(seed, size, rows):
    h, a, heads = normal(rows, SHAPE.base, seed=seed), normal(rows, SHAPE.inputs), small_heads(seed)
    own = moved_kernel(seed, size=size)
    bank = banks.stack(SHAPE, {"other": moved_kernel(seed + 1), "own": own})
    segments = Segments.of(torch.tensor([0, rows]), torch.device("cpu"))
    served = banks.run(bank.weights, heads, h, a, None, segments)
    found = contributions(own, heads, h, a)
    total = found.base_BT + found.through_h_BT + found.through_adapters_BT + found.through_skip_BT
    torch.testing.assert_close(total, served.logits_BT.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.rate_B, served.rate_B.double(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found.base_BT, heads(h).double())


@pytest.mark.parametrize("way", WAYS)
def test_a_way_whose_weights_alone_have_moved_is_all_that_a_kernel_adds(way):
    heads, weights = small_heads(), moved_kernel(3)
    for name in ZERO_AT_FIRST:
        if name not in WAYS[way]:
            weights[name] = torch.zeros_like(weights[name])
    found = contributions(weights, heads, H, A)
    assert getattr(found, way).abs().max() > 0.01
    for other in WAYS.keys() - {way}:
        torch.testing.assert_close(
            getattr(found, other), torch.zeros(5, 2, dtype=torch.float64), rtol=0, atol=1e-6
        )


def test_a_fresh_kernel_adds_nothing():
    found = contributions(kernel.fresh(SHAPE, seed=0), small_heads(), H, A)
    assert torch.equal(found.logits_BT, found.base_BT)
    assert not any(getattr(found, way).any() for way in WAYS)


def test_a_tail_has_no_adapters_and_moves_all_else():
    tail = Tail(lambda h_BH: h_BH[:, :2].tanh(), tasks=2, units=SHAPE.base)
    found = contributions(moved_kernel(4), tail, H, A)
    torch.testing.assert_close(
        found.through_adapters_BT, torch.zeros(5, 2, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert found.through_h_BT.abs().max() > 0.01
    assert found.through_skip_BT.abs().max() > 0.01
