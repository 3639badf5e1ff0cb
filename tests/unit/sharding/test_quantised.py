import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.sharding.quantised import Lookup, columns_of, room_for, to_bytes
from iak.pipeline.sharding.row_format import PRECISIONS, row_bytes

CPU = torch.device("cpu")
LOW = ("fp16", "int8", "int4")


def encoded(rows_RW, precision):
    return to_bytes(rows_RW, precision, table="t", first_row=7)


def decoded(bytes_RN, precision, width):
    rows = len(bytes_RN)
    return Lookup(precision, width, CPU)(bytes_RN, torch.arange(rows), torch.arange(rows + 1))


def again(rows_RW, precision):
    return decoded(encoded(rows_RW, precision), precision, rows_RW.shape[1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoded_row_has_the_bytes_of_its_format(precision):
    assert encoded(torch.randn(3, 64), precision).shape == (3, row_bytes(precision, 64))


@st.composite
def matrices(draw):
    """Rows of any size and place: their middle and their spread."""
    width = draw(st.sampled_from([2, 4, 6, 8, 20]))
    size = st.floats(1e-6, 100.0)
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        middle, spread = draw(st.floats(-200.0, 200.0)), draw(size)
        units = draw(st.lists(st.floats(-1.0, 1.0), min_size=width, max_size=width))
        rows.append([middle + spread * unit for unit in units])
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
@given(rows_RW=matrices())
def test_what_comes_back_is_half_a_step_away_at_most(precision, rows_RW):
    low_R, high_R = rows_RW.amin(1, keepdim=True), rows_RW.amax(1, keepdim=True)
    largest_R = rows_RW.abs().amax(1, keepdim=True)
    half = largest_R * 2**-11 + 2**-24  # of a step of fp16: the value's own, or the bias's
    steps = {"int8": 255, "int4": 15}.get(precision)
    bound_R1 = {"fp32": torch.zeros_like(half), "fp16": half}.get(precision)
    if steps:
        span_R1 = high_R - low_R + 2 * half
        bound_R1 = half + span_R1 * (0.5 / steps + 2**-10) + steps * 2**-24
    assert ((again(rows_RW, precision) - rows_RW).abs() <= bound_R1 * 1.001).all()


@pytest.mark.parametrize("precision", LOW)
def test_rows_of_one_value_come_back(precision):
    values = torch.tensor([0.0, 1.0, -0.25, 3.3, -1e-3, 1e-7, 6e4])
    found_RW = again(values[:, None].expand(-1, 8).contiguous(), precision)
    assert (found_RW == found_RW[:, :1]).all()
    torch.testing.assert_close(found_RW[:, 0], values, rtol=2**-10, atol=2**-24)
    assert found_RW[0, 0] == 0.0


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 7e4, -1e30])
def test_values_beyond_fp16_are_refused_by_name(precision, value):
    rows_RW = torch.randn(5, 8)
    rows_RW[3, 6] = value
    with pytest.raises(BadRequest, match=r"table t, row 10, column 6 holds .*precisions.t=fp32"):
        encoded(rows_RW, precision)


def test_fp32_holds_whatever_there_is():
    rows_RW = torch.tensor([[math.nan, math.inf, -math.inf, 1e38], [0.0, -0.0, 1e-45, 1.0]])
    assert torch.equal(
        encoded(rows_RW, "fp32").view(torch.int32), rows_RW.contiguous().view(torch.int32)
    )


@pytest.mark.parametrize("precision", LOW)
def test_the_largest_values_are_held(precision):
    rows_RW = torch.tensor([[65504.0, -65504.0, 0.0, 1.0]])
    torch.testing.assert_close(
        again(rows_RW, precision), rows_RW, atol={"int4": 4500.0}.get(precision, 300.0), rtol=0
    )


@pytest.mark.parametrize("width", [1, 2, 3, 5, 6, 7, 10])
@pytest.mark.parametrize("precision", LOW)
def test_any_width_is_held_but_odd_ones_in_int4(precision, width):
    if precision == "int4" and width % 2:  # refused before anything is encoded
        return
    rows_RW = torch.randn(9, width, generator=torch.Generator().manual_seed(width))
    span_R1 = rows_RW.amax(1, keepdim=True) - rows_RW.amin(1, keepdim=True)
    steps = {"fp16": 2**10, "int8": 255, "int4": 15}[precision]
    assert encoded(rows_RW, precision).shape == (9, row_bytes(precision, width))
    assert ((again(rows_RW, precision) - rows_RW).abs() <= span_R1 * 0.6 / steps + 4e-3).all()


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(("col", "cols"), [(0, 4), (4, 4), (8, 8), (4, 12)])
def test_columns_of_a_row_are_those_of_the_whole_row(precision, col, cols):
    bytes_RN = encoded(torch.randn(6, 16), precision)
    part_RN = columns_of(bytes_RN, precision, col, cols)
    whole_RW = decoded(bytes_RN, precision, 16)
    assert part_RN.shape[1] == row_bytes(precision, cols)
    assert torch.equal(decoded(part_RN, precision, cols), whole_RW[:, col : col + cols])


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    precision=st.sampled_from(PRECISIONS),
    kind=st.sampled_from([torch.int32, torch.int64]),
)
def test_a_lookup_adds_up_the_rows_of_each_bag(lengths, precision, kind):
    bytes_RN = encoded(torch.randn(11, 8, generator=torch.Generator().manual_seed(0)), precision)
    rows_RW = decoded(bytes_RN, precision, 8)
    ids = torch.arange(sum(lengths), dtype=kind) * 7 % 11
    ends = torch.tensor([0, *lengths]).cumsum(0)
    found = Lookup(precision, 8, CPU)(bytes_RN, ids, ends)
    for bag, (start, end) in enumerate(pairwise(ends)):
        torch.testing.assert_close(found[bag], rows_RW[ids[start:end].long()].sum(0))


def test_threads_may_look_up_at_once():
    """The prefetching thread and the main one, say, each with rows of its own."""
    lookup = Lookup("int8", 8, CPU)
    sources = [encoded(torch.full((50, 8), float(n)), "int8") for n in range(4)]
    ids, ends = torch.arange(50), torch.arange(51)

    def look(number):
        return all((lookup(sources[number], ids, ends) == number).all() for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, range(4))) == [True] * 4


@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_there_is_room_for_rows(rows):
    room_RN = room_for(rows, 68, CPU)
    room_RN.fill_(255)
    assert room_RN.shape == (rows, 68)
    assert int((room_RN == 255).sum()) == rows * 68
