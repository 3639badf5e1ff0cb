"""A predictor's rows: those of the kernels alone, and to the last bit whatever lies beside them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak import kernel
from iak.pipeline.iak.folded import fold
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.iak.predictor import SEGMENT_ROWS, Predictor, SlotLinear, SortedRows
from iak.pipeline.model.heads import Heads, Tail
from tests.unit.iak.small import (
    SHAPE,
    TAIL_SHAPE,
    moved_kernel,
    normal,
    small_heads,
    small_tail,
    stacked,
)

SHIPPED = (512, 80), (80, 66), (256, 64), (64, 16), (16, 258)
"""Inputs and outputs of the products of kernels of the shipped size, on two towers of 128 units and
before a tail."""


def sorted_rows(lengths):
    slots = [slot for slot, length in enumerate(lengths) if length]
    kept = [length for length in lengths if length]
    owners_B = torch.tensor(slots, dtype=torch.int64).repeat_interleave(torch.tensor(kept))
    return SortedRows(slots=slots, lengths=kept, owners_B=owners_B)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@given(segments=st.lists(st.integers(0, 40), min_size=2, max_size=5).filter(any))
@pytest.mark.parametrize(("inputs", "outputs"), [*SHIPPED, (5, 3), (12, 1)])
def test_a_product_rounds_a_row_alike_in_any_number_of_rows(inputs, outputs, segments):
    w_KIO = normal(len(segments), inputs * outputs).view(-1, inputs, outputs)
    rows = sorted_rows([count * SEGMENT_ROWS for count in segments])
    x_BI = normal(sum(rows.lengths), inputs, seed=1)
    together_BO = SlotLinear(w_KIO)(x_BI, rows)
    exact_BO = torch.einsum("bi,bio->bo", x_BI.double(), w_KIO[rows.owners_B].double())
    torch.testing.assert_close(together_BO.double(), exact_BO, atol=1e-3, rtol=1e-4)
    for first in range(0, len(x_BI), 5 * SEGMENT_ROWS):
        some = slice(first, first + SEGMENT_ROWS)
        slot = int(rows.owners_B[first])
        alone = sorted_rows([0] * slot + [SEGMENT_ROWS])
        assert torch.equal(SlotLinear(w_KIO)(x_BI[some].clone(), alone), together_BO[some])


def test_a_product_rounds_a_row_alike_beside_the_rows_of_many_kernels():
    kernels, inputs, outputs = 700, 64, 16  # their matrices are copied in three parts
    w_KIO = normal(kernels, inputs * outputs).view(-1, inputs, outputs)
    rows = sorted_rows([SEGMENT_ROWS] * kernels)
    x_BI = normal(sum(rows.lengths), inputs, seed=1)
    together_BO = SlotLinear(w_KIO)(x_BI, rows)
    for slot in range(0, kernels, 9):
        some = slice(slot * SEGMENT_ROWS, (slot + 1) * SEGMENT_ROWS)
        alone = sorted_rows([0] * slot + [SEGMENT_ROWS])
        assert torch.equal(SlotLinear(w_KIO)(x_BI[some].clone(), alone), together_BO[some])


@pytest.mark.parametrize("rank", [0, SHAPE.rank])
@given(segments=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
def test_each_row_gets_the_logits_of_its_kernel(rank, segments):
    check_against_single_kernels(replace(SHAPE, rank=rank), small_heads(), segments)


@given(segments=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
def test_a_tail_gets_the_logits_of_its_kernels_too(segments):
    check_against_single_kernels(TAIL_SHAPE, small_tail(), segments)


def check_against_single_kernels(shape: KernelShape, heads: Heads | Tail, segments):
    kernels = [moved_kernel(seed, shape) for seed in range(len(segments))]
    mean_KA = normal(len(segments), shape.inputs, seed=2)
    scale_KA = 0.5 + normal(len(segments), shape.inputs, seed=3).abs()
    rows = sorted_rows([count * SEGMENT_ROWS for count in segments])
    h_BH = normal(len(rows.owners_B), shape.base)
    u_BA = torch.cat([h_BH, normal(len(h_BH), shape.inputs - shape.base, seed=1)], dim=1)
    with torch.no_grad():
        layers = fold(stacked(kernels), heads, mean_KA, scale_KA)
        predictor = Predictor(layers, tasks=heads.tasks)
        added = predictor.parts(predictor.added(u_BA, rows))
        if isinstance(heads, Tail):
            logits_BT = heads(h_BH + added.within_BX) + added.logits_BT
        else:
            shift_BTD = added.within_BX.unflatten(1, (heads.tasks, heads.hidden))
            logits_BT = heads.read_out(heads.hidden_units(h_BH) + shift_BTD) + added.logits_BT
        for slot, one in enumerate(kernels):
            own = rows.owners_B == slot
            a_BA = (u_BA[own] - mean_KA[slot]) / scale_KA[slot]
            alone_BT = kernel.run(one, heads, h_BH[own], a_BA, None).logits_BT
            torch.testing.assert_close(logits_BT[own], alone_BT, atol=1e-5, rtol=1e-5)
