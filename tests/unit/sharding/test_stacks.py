"""An id leads to one rank and one row of its stack, as the plan cut the table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.stacks import (
    Piece,
    Stack,
    planned_pieces,
    stacks_of,
    whole_pieces,
)
from iak.schemas.plan import PlacementRuleSpec

CPU = torch.device("cpu")


def shape(name, rows, width=8, features=None):
    return TableShape(name=name, rows=rows, width=width, features=features or (f"f_{name}",))


def one_stack(shapes, world, **kinds):
    rule = PlacementRuleSpec(sharding=kinds, row_wise_from_rows=10**9)
    plan = plan_tables(shapes, world=world, device=CPU, rule=rule)
    (stack,) = stacks_of(shapes, list(planned_pieces(plan)), {s.name: "fp32" for s in shapes})
    return stack


def addresses(stack, lane, ids):
    """(rank, row of its stack) of each id."""
    owners_I, rows_I = stack.address([lane], [torch.tensor(ids)], torch.empty(0, dtype=torch.int32))
    return list(zip(owners_I.tolist(), rows_I.tolist(), strict=True))


@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    world=st.integers(1, 5),
    kinds=st.lists(st.sampled_from(["table_wise", "row_wise"]), min_size=4, max_size=4),
)
def test_every_row_has_an_address_of_its_own_inside_its_piece(rows, world, kinds):
    shapes = [shape(f"t{i}", max(n, world)) for i, n in enumerate(rows)]
    kinds = {s.name: kind for s, kind in zip(shapes, kinds, strict=False)}
    stack = one_stack(shapes, world, **kinds)
    taken = set()
    for number, lane in enumerate(stack.lanes):
        for row, (rank, at) in enumerate(addresses(stack, number, list(range(lane.rows)))):
            (piece,) = [
                p
                for p in stack.pieces
                if (p.table, p.rank) == (lane.table, rank) and p.row <= row < p.row + p.rows
            ]
            assert at == piece.first + row - piece.row
            assert at < stack.rows_on(rank)
            taken.add((rank, at))
    assert len(taken) == sum(s.rows for s in shapes)


def test_a_band_on_all_ranks_begins_at_the_same_row_everywhere():
    shapes = [shape("whole", 7), shape("cut", 10)]
    stack = one_stack(shapes, 3, whole="table_wise", cut="row_wise")
    assert {p.first for p in stack.pieces if p.table == "cut"} == {0}
    (whole,) = [p for p in stack.pieces if p.table == "whole"]
    # Each rank reserves a block of 4 rows, the last one too, which has but 2.
    assert whole.first == 4


def test_bands_of_columns_are_lanes_of_their_own():
    shapes = [shape("t", 6, width=16)]
    stack = one_stack(shapes, 2, t="column_wise")
    assert (stack.width, stack.precision) == (8, "fp32")
    assert sorted((lane.col, len(lane.ranks)) for lane in stack.lanes) == [(0, 1), (8, 1)]


def test_each_feature_of_a_table_is_a_lane():
    stack = one_stack([shape("t", 6, features=("mine", "friends"))], 1)
    assert [lane.feature for lane in stack.lanes] == ["mine", "friends"]


def test_widths_and_precisions_make_stacks_of_their_own():
    shapes = [shape("a", 5), shape("b", 5), shape("c", 5, width=16), shape("d", 5)]
    precisions = {"a": "fp32", "b": "int8", "c": "fp32", "d": "fp32"}
    stacks = stacks_of(shapes, list(whole_pieces(shapes)), precisions)
    tables = [[piece.table for piece in stack.pieces] for stack in stacks]
    assert tables == [["a", "d"], ["b"], ["c"]]
    assert [stack.rows_on(0) for stack in stacks] == [10, 5, 5]
    assert stacks[0].rows_on(1) == 0


@pytest.mark.parametrize("ids", [[-1], [6], [0, 3, 99]])
def test_an_id_outside_its_table_is_refused_by_feature_and_table(ids):
    stack = one_stack([shape("t", 6)], 2, t="row_wise")
    with pytest.raises(ValueError, match=r"feature f_t asks for ids .* table t has rows 0 to 5"):
        addresses(stack, 0, ids)


def test_a_feature_without_an_id_asks_for_nothing():
    assert addresses(one_stack([shape("t", 6)], 1), 0, []) == []


def test_ids_beyond_32_bits_keep_their_value():
    rows = 2**33
    pieces = [Piece(table="t", rank=r, row=r * 2**32, rows=2**32, col=0, cols=8) for r in (0, 1)]
    stack = Stack("int8", 8, pieces, [shape("t", rows)])
    ids = torch.tensor([2**32 - 1, 2**32 + 5, rows - 1])
    owners_I, rows_I = stack.address([0], [ids], torch.empty(0, dtype=torch.int64))
    assert owners_I.tolist() == [0, 1, 1]
    assert rows_I.tolist() == [2**32 - 1, 5, 2**32 - 1]


@pytest.mark.parametrize(("world", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_owners_take_a_byte_where_the_ranks_allow_it(world, dtype):
    pieces = [Piece(table="t", rank=r, row=r, rows=1, col=0, cols=8) for r in range(world)]
    stack = Stack("int8", 8, pieces, [shape("t", world)])
    owners_I, _ = stack.address(
        [0], [torch.tensor([world - 1])], torch.empty(0, dtype=torch.int32)
    )  # fmt: skip
    assert owners_I.dtype == dtype
    assert owners_I.tolist() == [world - 1]
