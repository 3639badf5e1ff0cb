import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.placement_rule import (
    TABLES_PATH,
    as_document,
    check_covers,
    describe,
    plan_tables,
    planned,
)
from iak.schemas.plan import PlacementRuleSpec, PlanDocument

CPU = torch.device("cpu")
KINDS = ["table_wise", "row_wise", "column_wise"]


def table(name, rows, width=8):
    return TableShape(name=name, rows=rows, width=width, features=(name,))


def plan(shapes, world, sharding=None, **settings):
    rule = PlacementRuleSpec(sharding=sharding or {}, row_wise_from_rows=50)
    return plan_tables(shapes, **{"world": world, "device": CPU, "rule": rule, **settings})


@given(
    sizes=st.lists(st.tuples(st.integers(8, 200), st.sampled_from([4, 8, 24])), max_size=6),
    world=st.integers(1, 8),
    kinds=st.lists(st.sampled_from([*KINDS, None]), min_size=6, max_size=6),
)
def test_every_element_lies_on_exactly_one_rank(sizes, world, kinds):
    shapes = [table(f"t{i}", rows, width) for i, (rows, width) in enumerate(sizes)]
    asked = {s.name: k for s, k in zip(shapes, kinds, strict=False) if k}
    made = plan(shapes, world, asked)
    for shape in shapes:
        seen = torch.zeros(shape.rows, shape.width)
        for shard in made.plan[TABLES_PATH][shape.name].sharding_spec.shards:
            (row, col), (rows, cols) = shard.shard_offsets, shard.shard_sizes
            seen[row : row + rows, col : col + cols] += 1
        assert (seen == 1).all()
        assert made.plan[TABLES_PATH][shape.name].compute_kernel == "fused"
    check_covers(made, {s.name: (s.rows, s.width) for s in shapes})


@given(rows=st.lists(st.integers(1, 49), min_size=1, max_size=12), world=st.integers(1, 5))
def test_no_rank_holds_more_than_the_lightest_and_one_table(rows, world):
    shapes = [table(f"t{i}", n) for i, n in enumerate(rows)]
    load = [0] * world
    for line in describe(plan(shapes, world)):
        (rank,) = line.ranks
        load[rank] += line.rows
    assert max(load) <= min(load) + max(rows)


def test_big_tables_are_cut_by_rows_and_small_ones_are_not():
    lines = describe(plan([table("small", 49), table("big", 50)], 2))
    assert [(line.table, line.type) for line in lines] == [
        ("small", "table_wise"),
        ("big", "row_wise"),
    ]
    assert lines[1].model_dump(mode="json") == {
        "table": "big", "type": "row_wise", "ranks": [0, 1], "rows": 50, "width": 8,
        "bytes_per_rank": [800, 800],
    }  # fmt: skip


def test_cards_are_numbered_by_host():
    made = plan([table("t", 64)], 4, device=torch.device("cuda"), ranks_per_host=2)
    shards = made.plan[TABLES_PATH]["t"].sharding_spec.shards
    assert [str(s.placement) for s in shards] == [
        f"rank:{rank}/cuda:{rank % 2}" for rank in range(4)
    ]


@pytest.mark.parametrize(
    ("sharding", "says"),
    [
        pytest.param({"absent": "row_wise"}, r"unknown tables \['absent'\]", id="no such table"),
        pytest.param({"t": "row_wise"}, "fewer than 4 workers", id="fewer rows than workers"),
    ],
)
def test_refuses_types_that_cannot_be(sharding, says):
    with pytest.raises(BadRequest, match=says):
        plan([table("t", 3)], 4, sharding)


def test_refuses_a_plan_of_other_tables():
    with pytest.raises(BadRequest, match="dropped: model"):
        check_covers(plan([table("t", 3)], 1), {"t": (3, 8), "dropped": (9, 8)})


@given(
    rows=st.lists(st.integers(8, 500), min_size=1, max_size=5),
    world=st.integers(1, 8),
    kinds=st.lists(st.sampled_from(["table_wise", "row_wise", "column_wise"]), min_size=5),
)
def test_a_saved_plan_is_the_plan(rows, world, kinds):
    shapes = [
        TableShape(name=f"t{i}", rows=n, width=8, features=(f"t{i}",)) for i, n in enumerate(rows)
    ]
    overrides = {s.name: kind for s, kind in zip(shapes, kinds, strict=False)}
    rule = PlacementRuleSpec(sharding=overrides, row_wise_from_rows=50)
    made = plan_tables(shapes, world=world, device=CPU, rule=rule)
    text = as_document(made, job="pretrain", world=world).model_dump_json()
    again = planned(PlanDocument.model_validate_json(text), shapes, world=world, device=CPU)
    assert describe(again) == describe(made)
    for name in overrides:
        one, other = (p.plan[TABLES_PATH][name] for p in (made, again))
        assert one.sharding_spec == other.sharding_spec
        assert one.compute_kernel == other.compute_kernel


def saved(world=2):
    shapes = [TableShape(name=n, rows=100, width=8, features=(n,)) for n in ("a", "b")]
    rule = PlacementRuleSpec(row_wise_from_rows=50)
    made = plan_tables(shapes, world=world, device=CPU, rule=rule)
    return shapes, as_document(made, job="pretrain", world=world)


def test_a_plan_for_other_tables_or_workers_names_every_difference():
    shapes, document = saved()
    others = [shapes[0], TableShape(name="c", rows=7, width=8, features=("c",))]
    with pytest.raises(BadRequest) as error:
        planned(document, others, world=3, device=CPU)
    told = str(error.value)
    for part in ("workers: plan 2, job 3", "table b (rows, width): plan (100, 8), model -"):
        assert part in told
    assert "table c (rows, width): plan -, model (7, 8)" in told


def test_a_plan_for_other_precisions_is_refused():
    shapes, document = saved()
    with pytest.raises(BadRequest, match=r"table b \(precision\): plan fp32, job int8") as error:
        planned(document, shapes, world=2, device=CPU, precisions={"b": "int8"})
    assert "table a" not in str(error.value)


def test_a_plan_that_cuts_a_table_wrongly_is_refused():
    shapes, document = saved()
    held = json.loads(document.model_dump_json())
    held["tables"][0]["shards"][1]["row"] += 1
    with pytest.raises(BadRequest, match="table a: these shards are not a row_wise cut"):
        planned(PlanDocument.model_validate(held), shapes, world=2, device=CPU)
