"""A row comes to the same bits alone in memory and among any neighbours."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from iak.pipeline.model.steady_linear import LEAST_OUTPUTS, LEAST_ROWS, SteadyLinear
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.ple import Ple

ROWS = 60
DEEP = {"embeddings": [3, 5, 2], "numbers": 3, "width": 5, "mlp": [7]}
TRUNKS = {
    "dcnv2_mmoe": lambda **h: DcnMmoe(width=13, cross_layers=2, mlp=[7, 5], experts=3, **h),
    "deepfm": lambda **h: DeepFm(**DEEP, **h),
    "dlrm": lambda **h: Dlrm(**DEEP, **h),
    "ple": lambda **h: Ple(width=13, levels=2, experts=3, shared_experts=2, **h),
}
some_rows = st.lists(st.integers(0, ROWS - 1), min_size=LEAST_ROWS, max_size=2 * ROWS)
sizes = st.integers(1, 70)


@given(sizes, st.integers(1, LEAST_OUTPUTS + 5), some_rows, st.integers(0, 99))
def test_a_row_rounds_the_same_among_any_rows(inputs, outputs, chosen, seed):
    torch.manual_seed(seed)
    layer, x_BI = SteadyLinear(inputs, outputs), torch.randn(ROWS, inputs)
    with torch.no_grad():
        assert torch.equal(layer(x_BI[chosen]), layer(x_BI)[chosen])


@pytest.mark.parametrize("kind", TRUNKS)
@given(some_rows, st.integers(0, 99))
def test_a_whole_trunk_rounds_a_row_the_same_among_any_rows(kind, chosen, seed):
    torch.manual_seed(seed)
    trunk = TRUNKS[kind](expert_width=6, tasks=2).eval()
    x_BX = torch.randn(ROWS, 13)
    with torch.no_grad():
        assert torch.equal(trunk(x_BX[chosen]), trunk(x_BX)[chosen])


@given(sizes, sizes, st.integers(0, 99))
def test_it_computes_a_linear_layer_and_trains_as_one(inputs, outputs, seed):
    torch.manual_seed(seed)
    layer, x_BI = SteadyLinear(inputs, outputs), torch.randn(ROWS, inputs)
    wanted = nn.functional.linear(x_BI, layer.weight, layer.bias)
    assert torch.equal(layer(x_BI), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x_BI), wanted)


def test_a_layer_may_have_no_bias():
    layer = SteadyLinear(5, 2, bias=False)
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.eye(5)), layer.weight.T)
