"""TorchRec's planner places tables as they can be stored, and no table is lost on the way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.jobs.clusters import load_cluster
from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.placement_rule import (
    TABLES_PATH,
    planned,
)
from iak.pipeline.sharding.placement_search import Wanted, search
from iak.pipeline.sharding.stacks import planned_pieces, stacks_of
from iak.schemas.plan import PlacementRuleSpec
from tests.unit.planning.plan_requests import a_request

CPU = torch.device("cpu")


@settings(max_examples=25, deadline=None)
@given(
    tables=st.lists(
        st.tuples(st.integers(8, 10**7), st.sampled_from([2, 8, 20, 64, 128]),
                  st.sampled_from(["fp32", "fp16", "int8", "int4"]),
                  st.sampled_from([None, "table_wise", "row_wise", "column_wise"])),
        min_size=1, max_size=4,
    ),
    cluster=st.sampled_from(["2xH100", "8xL40S", "2x8xA100-40"]),
)  # fmt: skip
def test_the_planner_places_frozen_tables_as_they_can_be_held(tables, cluster):
    cluster = load_cluster(cluster)
    sized = [
        (max(rows, cluster.world), width, precision, kind)
        for rows, width, precision, kind in tables
        if kind != "column_wise" or width >= 4 * cluster.world
    ] or [(100, 8, "int8", None)]
    shapes = tuple(
        TableShape(name=f"t{i}", rows=rows, width=width, features=(f"f{i}", f"g{i}"))
        for i, (rows, width, _, _) in enumerate(sized)
    )
    precisions = {f"t{i}": precision for i, (_, _, precision, _) in enumerate(sized)}
    asked = {f"t{i}": kind for i, (_, _, _, kind) in enumerate(sized) if kind}
    ids = {feature: 2.5 for shape in shapes for feature in shape.features}
    wanted = Wanted(
        shapes=shapes, ids=ids, placement=PlacementRuleSpec(sharding=asked), batch_rows=1000,
        precisions=precisions,
    )  # fmt: skip
    document = search(wanted, cluster, reserved_bytes=0).document
    assert document.job == "finetune"
    assert {t.table: t.type for t in document.tables}.items() >= asked.items()
    made = planned(document, shapes, world=cluster.world, device=CPU, precisions=precisions)
    stacks = stacks_of(shapes, list(planned_pieces(made)), precisions)
    held = sum(piece.rows * piece.cols for stack in stacks for piece in stack.pieces)
    assert held == sum(shape.rows * shape.width for shape in shapes)


@pytest.mark.parametrize("asked", [{}, {"wide": "column_wise"}], ids=["open", "asked for"])
def test_a_trained_table_is_cut_by_columns_only_where_that_is_asked_for(asked):
    sizes = {"wide": (1_000, 512), "one": (100, 128), "long": (10**8, 64)}
    shapes = tuple(
        TableShape(name=name, rows=rows, width=width, features=(name,))
        for name, (rows, width) in sizes.items()
    )
    wanted = Wanted(
        shapes=shapes, ids=dict.fromkeys(sizes, 100.0), batch_rows=65_536,
        placement=PlacementRuleSpec(sharding=asked),
    )  # fmt: skip
    document = search(wanted, load_cluster("8xL40S"), reserved_bytes=0).document
    cut = {table.table for table in document.tables if table.type == "column_wise"}
    assert cut == set(asked)


def test_tables_may_be_named_as_layers_of_a_module_are():
    names = ("users.items", "items", "training")
    shapes = tuple(TableShape(name=n, rows=99, width=8, features=(n,)) for n in names)
    wanted = Wanted(
        shapes=shapes, ids=dict.fromkeys(names, 1.0), placement=PlacementRuleSpec(), batch_rows=100,
        precisions=dict.fromkeys(names, "int8"),
    )  # fmt: skip
    document = search(wanted, load_cluster("2xH100"), reserved_bytes=0).document
    assert tuple(table.table for table in document.tables) == names
    assert planned_pieces(
        planned(document, shapes, world=2, device=CPU, precisions=wanted.precisions)
    )


def test_a_table_the_planner_drops_is_not_overlooked(monkeypatch):
    request, cluster = a_request(), load_cluster("8xH100")
    from iak.pipeline.sharding import placement_search as searching

    real = searching.EmbeddingShardingPlanner.plan

    def dropping(self, module, sharders):
        plan = real(self, module, sharders)
        del plan.plan[TABLES_PATH]["item_id"]
        return plan

    monkeypatch.setattr(searching.EmbeddingShardingPlanner, "plan", dropping)
    with pytest.raises(searching.DoesNotFit, match=r"left table item_id out.*3652"):
        search(request.wanted, cluster, reserved_bytes=0)
