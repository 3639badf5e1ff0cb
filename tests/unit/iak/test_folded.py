"""Folded kernels: each one's bits are its own, and a kernel that changes nothing adds zeros."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak.folded import fold
from iak.pipeline.iak.kernel import fresh
from iak.pipeline.iak.predictor import SEGMENT_ROWS, Predictor, SortedRows
from tests.unit.iak.small import (
    SHAPE,
    TAIL_SHAPE,
    moved_kernel,
    normal,
    small_heads,
    small_tail,
    stacked,
)

KERNELS = 6
MEAN_KA = normal(KERNELS, SHAPE.inputs, seed=2)
SCALE_KA = 0.5 + normal(KERNELS, SHAPE.inputs, seed=3).abs()
KINDS = pytest.mark.parametrize(
    ("shape", "heads"),
    [
        (SHAPE, small_heads()),
        (replace(SHAPE, rank=0), small_heads()),
        (TAIL_SHAPE, small_tail()),
    ],
    ids=["adapters", "no adapters", "tail"],
)


@KINDS
@given(slots=st.lists(st.integers(0, KERNELS - 1), min_size=1, max_size=9))
def test_a_kernel_is_folded_alike_beside_any_others(shape, heads, slots):
    kernels = [moved_kernel(seed, shape) for seed in range(KERNELS)]
    together = fold(stacked(kernels), heads, MEAN_KA, SCALE_KA)
    some = fold(stacked([kernels[k] for k in slots]), heads, MEAN_KA[slots], SCALE_KA[slots])
    for layer, all_kernels in zip(some, together, strict=True):
        assert torch.equal(layer.w_KIO, all_kernels.w_KIO[slots])
        assert torch.equal(layer.b_KO, all_kernels.b_KO[slots])


@KINDS
def test_a_kernel_that_changes_no_logit_adds_zeros(shape, heads):
    layers = fold(stacked([fresh(shape, seed=0)]), heads, MEAN_KA[:1], SCALE_KA[:1])
    rows = SortedRows(
        slots=[0], lengths=[SEGMENT_ROWS], owners_B=torch.zeros(SEGMENT_ROWS, dtype=torch.int64)
    )
    added = Predictor(layers, tasks=shape.tasks).added(normal(SEGMENT_ROWS, shape.inputs), rows)
    assert torch.equal(added, torch.zeros_like(added))


def test_a_mean_far_from_zero_costs_no_digits_beyond_those_of_its_inputs():
    """An input rounds to its own size before it is standardised, whoever subtracts the mean."""
    weights, heads = stacked([moved_kernel(0)]), small_heads()
    mean_1A, scale_1A = torch.full((1, SHAPE.inputs), 1000.0), torch.ones(1, SHAPE.inputs)
    layer, _ = fold(weights, heads, mean_1A, scale_1A)
    u_BA = 1000 + normal(9, SHAPE.inputs)
    exact_BO = (u_BA.double() - 1000) @ weights["encode_w"][0].double().T + weights["encode_b"][0]
    folded_BO = u_BA @ layer.w_KIO[0, :, : SHAPE.hidden] + layer.b_KO[0]
    torch.testing.assert_close(folded_BO.double(), exact_BO, atol=1000 * 2**-20, rtol=0)
