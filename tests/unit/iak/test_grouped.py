"""Products of sorted rows: each row meets the matrix of its own slot."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.iak.grouped import Segments, grouped_linear, slot_sums, spread
from tests.unit.iak.small import normal

counts_of_slots = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(counts=counts_of_slots)
def test_sums_over_slots_undo_spreading(counts):
    segments, values_P = Segments.of(counts), normal(len(counts), 2)
    expected = values_P * torch.tensor(counts, dtype=torch.float32)[:, None]
    torch.testing.assert_close(slot_sums(spread(values_P, segments), segments), expected)


@given(counts=counts_of_slots)
def test_each_run_of_rows_meets_its_own_matrix(counts):
    segments, slots = Segments.of(counts), len(counts)
    x_BI, w_POI, b_PO = normal(sum(counts), 3), normal(slots, 2, 3), normal(slots, 2)
    slot_B = torch.repeat_interleave(torch.arange(slots), torch.tensor(counts))
    expected = torch.einsum("bi,boi->bo", x_BI, w_POI[slot_B]) + b_PO[slot_B]
    torch.testing.assert_close(grouped_linear(x_BI, w_POI, b_PO, segments), expected)


def one_by_one(x_BI, w_POI, b_PO, counts):
    parts = x_BI.split(counts)
    return torch.cat([x @ w.t() + b for x, w, b in zip(parts, w_POI, b_PO, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", [[5, 0, 4], [3], [600], [513, 1_100]])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (8, 16), (1, 1)])
def test_any_width_type_and_length_gives_each_row_its_own_product(dtype, counts, inputs, outputs):
    slots = len(counts)
    x_BI, w_POI = normal(sum(counts), inputs).to(dtype), normal(slots, outputs, inputs).to(dtype)
    b_PO = normal(slots, outputs, seed=1).to(dtype)
    expected = one_by_one(x_BI, w_POI, b_PO, counts)
    found = grouped_linear(x_BI, w_POI, b_PO, Segments.of(counts))
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert found.dtype == dtype


@pytest.mark.parametrize("counts", [[7, 5], [700]])
def test_gradients_are_those_of_the_products_one_by_one(counts):
    x_BI, w_POI, b_PO = normal(sum(counts), 3), normal(len(counts), 4, 3), normal(len(counts), 4)
    gradients = []
    for product in (
        lambda x, w, b: grouped_linear(x, w, b, Segments.of(counts)),
        lambda x, w, b: one_by_one(x, w, b, counts),
    ):
        leaves = [t.clone().requires_grad_() for t in (x_BI, w_POI, b_PO)]
        product(*leaves).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@given(counts=counts_of_slots)
def test_every_row_has_the_slot_whose_rows_it_lies_among(counts):
    segments = Segments.of(counts)
    assert segments.lengths.tolist() == counts
    assert segments.owners.tolist() == [slot for slot, n in enumerate(counts) for _ in range(n)]
    assert (segments.rows, segments.slots) == (sum(counts), len(counts))


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [(0, []), (1, [1]), (512, [512]), (513, [512, 1]), (1_300, [512, 512, 276])],
)
def test_long_slots_are_cut_into_segments(rows, lengths):
    assert Segments.of([rows]).cut.lengths.tolist() == lengths


def test_one_slot_spreads_without_a_copy():
    values_P = normal(1, 3)
    spread_B = spread(values_P, Segments.of([5]))
    assert spread_B.data_ptr() == values_P.data_ptr()
    assert torch.equal(spread_B, values_P.repeat(5, 1))
