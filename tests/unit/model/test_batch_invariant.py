"""A row comes to the same bits among any other rows, in layers of trunks and of other modules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.data.batch import FULL_ROWS
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.batch_invariant import (
    MIN_OUTPUTS,
    batch_invariant,
    row_dots,
    task_products,
)
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.pipeline.model.trunks.ple import Ple

ROWS = 3 * FULL_ROWS
DEEP = {"embeddings": [3, 5, 2], "numbers": 3, "width": 5, "mlp": [7]}
TRUNKS = {
    "dcnv2_mmoe": lambda **h: DcnMmoe(width=13, cross_layers=2, mlp=[7, 5], experts=3, **h),
    "deepfm": lambda **h: DeepFm(**DEEP, **h),
    "dlrm": lambda **h: Dlrm(**DEEP, **h),
    "ple": lambda **h: Ple(width=13, levels=2, experts=3, shared_experts=2, **h),
}
some_rows = st.integers(1, 2).flatmap(
    lambda runs: st.lists(
        st.integers(0, ROWS - 1), min_size=runs * FULL_ROWS, max_size=runs * FULL_ROWS
    )
)
sizes = st.integers(1, 70)


@given(sizes, st.integers(1, MIN_OUTPUTS + 5), some_rows, st.integers(0, 99))
def test_a_row_rounds_the_same_among_any_rows(inputs, outputs, chosen, seed):
    torch.manual_seed(seed)
    layer, x_BI = nn.Linear(inputs, outputs), torch.randn(ROWS, inputs)
    with torch.no_grad(), batch_invariant():
        assert torch.equal(layer(x_BI[chosen]), layer(x_BI)[chosen])


@pytest.mark.parametrize("inputs", [200, 512, 1796])
@pytest.mark.parametrize("outputs", [1, 12, 64])
def test_a_row_rounds_the_same_in_layers_of_the_size_of_a_base(inputs, outputs):
    torch.manual_seed(0)
    layer, x_BI = nn.Linear(inputs, outputs), torch.randn(512, inputs)
    with torch.no_grad(), batch_invariant():
        whole = layer(x_BI)
        for rows in range(FULL_ROWS, 512, FULL_ROWS):
            assert torch.equal(layer(x_BI[-rows:].clone()), whole[-rows:])


@pytest.mark.parametrize("kind", TRUNKS)
@given(some_rows, st.integers(0, 99))
def test_a_whole_trunk_rounds_a_row_the_same_among_any_rows(kind, chosen, seed):
    torch.manual_seed(seed)
    trunk = TRUNKS[kind](expert_width=6, tasks=2).eval()
    x_BX = torch.randn(ROWS, 13)
    with torch.no_grad(), batch_invariant():
        assert torch.equal(trunk(x_BX[chosen]), trunk(x_BX)[chosen])


@given(
    st.integers(1, 3),
    sizes,
    st.integers(1, MIN_OUTPUTS + 5),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_towers_round_a_row_the_same_among_any_rows(tasks, inputs, outputs, segments, seed):
    """A kernel's rows are filled up to a multiple of 8."""
    torch.manual_seed(seed)
    x_BTI, w_TIO = torch.randn(200, tasks, inputs), torch.randn(tasks, inputs, outputs)
    chosen = torch.randint(0, 200, (8 * segments,))
    with torch.no_grad():
        for function, w in ((task_products, w_TIO), (row_dots, w_TIO[..., 0])):
            assert torch.equal(function(x_BTI[chosen], w), function(x_BTI, w)[chosen])


@given(st.integers(1, 3), sizes, sizes, st.integers(0, 99))
def test_towers_compute_while_training_what_they_compute_afterwards(tasks, inputs, outputs, seed):
    torch.manual_seed(seed)
    x_BTI, w_TIO = torch.randn(9, tasks, inputs), torch.randn(tasks, inputs, outputs)
    for function, w in ((task_products, w_TIO), (row_dots, w_TIO[..., 0])):
        with torch.no_grad():
            afterwards = function(x_BTI, w)
        torch.testing.assert_close(function(x_BTI, w), afterwards)


class Foreign(nn.Module):
    """A module that was made elsewhere, with few units and widths that are no multiple of 4."""

    units = 3

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(13, 5), nn.Linear(5, 3), nn.Linear(3, 2)

    def represent(self, _, numbers):
        return self.second(self.first(numbers).tanh())

    def tail(self, h):
        return self.last(h)


@given(some_rows, st.integers(0, 99))
def test_an_adopted_module_rounds_a_row_the_same_among_any_rows(chosen, seed):
    torch.manual_seed(seed)
    base, no_ids = AdoptedModel(Foreign(), tasks=2), KeyedJaggedTensor.empty()
    numbers_BN = torch.randn(ROWS, 13)
    with torch.no_grad():
        whole = base.represent(no_ids, numbers_BN).h_BH
        assert torch.equal(base.represent(no_ids, numbers_BN[chosen]).h_BH, whole[chosen])
        assert torch.equal(base.heads(whole[chosen]), base.heads(whole)[chosen])


@given(sizes, sizes, st.integers(0, 99))
def test_it_computes_a_linear_layer_and_trains_as_one(inputs, outputs, seed):
    torch.manual_seed(seed)
    layer, x_BI = nn.Linear(inputs, outputs), torch.randn(ROWS, inputs)
    expected = layer(x_BI)
    with batch_invariant():
        assert torch.equal(layer(x_BI), expected)
    with torch.no_grad(), batch_invariant():
        torch.testing.assert_close(layer(x_BI), expected)


class Products(TorchFunctionMode):
    """Record how many outputs each product has."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            self.outputs.append(len(args[1]))
        return func(*args, **(kwargs or {}))


def test_every_layer_of_an_adopted_module_computes_enough_outputs():
    """Some processors round rows the same without it, and only this test fails there."""
    with torch.no_grad(), Products() as products:
        AdoptedModel(Foreign(), tasks=2)(KeyedJaggedTensor.empty(), torch.randn(9, 13))
    assert products.outputs == [MIN_OUTPUTS] * 3


def test_a_layer_may_have_no_bias():
    layer = nn.Linear(5, 2, bias=False)
    with torch.no_grad(), batch_invariant():
        torch.testing.assert_close(layer(torch.eye(5)), layer.weight.T)
