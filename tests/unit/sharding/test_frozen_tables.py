import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.digest import digest, freeze
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.quantised import Lookup, to_bytes
from iak.pipeline.sharding.row_format import PRECISIONS, row_bytes
from iak.pipeline.sharding.shard import (
    dense_state,
    digest_model,
    freeze_tables,
    local_shards,
    unwrap,
)
from iak.pipeline.sharding.stacks import planned_pieces, stacks_of
from iak.schemas.plan import PlacementRuleSpec
from tests.unit.model.small import FEATURES, SHAPES, small_batch, small_model

CPU = torch.device("cpu")
ALONE = Worker(rank=0, world=1, device=CPU)
MIXED = {"user": "int8", "hour": "fp32", "shop": "int4"}


def planned(world, shapes=SHAPES, **overrides):
    rule = PlacementRuleSpec(sharding=overrides, row_wise_from_rows=1000)
    return plan_tables(shapes, world=world, device=CPU, rule=rule)


def reader(model):
    """Reads the tables of a whole model."""

    def read(out_RW, *, table, row, col):
        rows, cols = out_RW.shape
        weight = model.tables.embedding_bags[table].weight.detach()
        out_RW.copy_(weight[row : row + rows, col : col + cols])

    return read


def frozen_tables(precisions, **settings):
    tables = FrozenTables(SHAPES, planned(1), worker=ALONE, precisions=precisions, **settings)
    tables.fill(reader(small_model()))
    return tables


def all_in(precision):
    return {shape.name: precision for shape in SHAPES}


def decoded(table, precision):
    """A whole table as its precision holds it."""
    weight = small_model().tables.embedding_bags[table].weight.detach()
    rows, width = weight.shape
    bytes_RN = to_bytes(weight, precision, table=table, first_row=0)
    return Lookup(precision, width, CPU)(bytes_RN, torch.arange(rows), torch.arange(rows + 1))


@st.composite
def batches(draw):
    """Ids of the small model's features: bags of 0 to 6, batches of 0 to 5."""
    rows = draw(st.integers(0, 5))
    lengths, values = [], []
    for feature in FEATURES:
        table = next(s for s in SHAPES if feature in s.features)
        of_feature = draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows))
        count = sum(of_feature)
        values += draw(st.lists(st.integers(0, table.rows - 1), min_size=count, max_size=count))
        lengths += of_feature
    return KeyedJaggedTensor(
        keys=list(FEATURES),
        values=torch.tensor(values, dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.int32),
    )


@pytest.mark.parametrize(
    "precisions", [*map(all_in, PRECISIONS), MIXED], ids=[*PRECISIONS, "mixed"]
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=batches())
def test_a_bag_is_the_sum_of_its_rows_and_a_sequence_its_rows(precisions, ids):
    tables = frozen_tables(precisions)
    sums, rows = tables(ids), tables.sequences(ids)
    assert set(sums) == set(rows) == set(FEATURES)
    for feature in FEATURES:
        shape = next(s for s in SHAPES if feature in s.features)
        whole_RW = decoded(shape.name, precisions[shape.name])
        bags = ids[feature]
        assert torch.equal(rows[feature], whole_RW[bags.values()])
        assert sums[feature].shape == (ids.stride(), shape.width)
        ends = [0, *bags.lengths().cumsum(0).tolist()]
        for bag in range(ids.stride()):
            expected_W = rows[feature][ends[bag] : ends[bag + 1]].sum(0)
            torch.testing.assert_close(sums[feature][bag], expected_W, atol=1e-5, rtol=1e-5)


def test_fp32_is_what_torchrec_looks_up():
    rows = small_batch(12, 7)
    expected, found = small_model().tables(rows.ids), frozen_tables(all_in("fp32"))(rows.ids)
    for feature in FEATURES:
        torch.testing.assert_close(found[feature], expected[feature], atol=1e-6, rtol=0)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("wrong", [-1, "rows", 2**40])
def test_an_id_outside_its_table_is_refused_and_no_other_row_is_read(feature, wrong):
    """Tables lie one after the other: the row after a table's last is another table's first."""
    table = next(s for s in SHAPES if feature in s.features)
    ids = small_batch(4, 3).ids
    place = ids.offset_per_key()[ids.keys().index(feature)]
    ids.values()[place] = table.rows if wrong == "rows" else wrong
    tables = frozen_tables(all_in("int8"))
    for look_up in (tables, tables.sequences):
        with pytest.raises(
            ValueError, match=f"feature {feature} asks for .* table {table.name} has"
        ):
            look_up(ids)


def test_lengths_that_promise_more_ids_than_there_are_are_refused():
    ids = KeyedJaggedTensor(
        keys=["hour"], values=torch.tensor([1, 2]), lengths=torch.tensor([1, 2])
    )
    with pytest.raises(ValueError, match="add up to 3 ids, but there are 2"):
        frozen_tables(all_in("int8"))(ids)


def test_a_precision_that_cannot_hold_a_table_is_refused():
    shape = TableShape(name="odd", rows=4, width=3, features=("f",))
    with pytest.raises(BadRequest, match="table odd has 3 columns"):
        FrozenTables([shape], planned(1, [shape]), worker=ALONE, precisions={"odd": "int4"})


def test_a_gpu_cannot_map_tables(tmp_path):
    worker = Worker(rank=0, world=1, device=torch.device("cuda", 0))
    with pytest.raises(BadRequest, match="worker 0 computes on cuda:0"):
        FrozenTables(
            SHAPES, planned(1), worker=worker, precisions=all_in("int8"),
            mapped_at=MapFolder(path=tmp_path, base_fingerprint="b"),
        )  # fmt: skip


def frozen_model(precisions):
    model = small_model("meta")
    freeze(model)
    freeze_tables(model, planned(1), worker=ALONE, precisions=precisions).fill(
        reader(small_model())
    )
    small = small_model()
    for part in ("trunk", "heads"):
        getattr(model, part).load_state_dict(getattr(small, part).state_dict())
    return model


def held_bytes(tables):
    """Bytes of every tensor that can be reached from the tables."""
    found, seen, todo = {}, set(), [tables]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | torch.device | str | int):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, list | tuple | set):
            todo += thing
        elif hasattr(thing, "__slots__") and not hasattr(thing, "__dict__"):
            todo += [getattr(thing, name) for name in thing.__slots__]
        elif hasattr(thing, "__dict__"):
            todo += vars(thing).values()
    return sum(found.values())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_all_that_is_held(precision):
    """No optimiser state, no gradient, no second copy: a few numbers a kernel besides the rows."""
    shape = TableShape(name="t", rows=5000, width=64, features=("f",))
    tables = FrozenTables([shape], planned(1, [shape]), worker=ALONE, precisions={"t": precision})
    rows = 5000 * row_bytes(precision, 64)
    assert tables.num_bytes == rows
    tables(KeyedJaggedTensor(["f"], values=torch.tensor([1]), lengths=torch.tensor([1])))
    assert rows <= held_bytes(tables) <= rows + 4096
    assert not list(tables.parameters())
    assert not tables.state_dict()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_of_the_trunk_leaves_the_tables_as_they_are(precision):
    model, rows = frozen_model(all_in(precision)), small_batch(12, 7)
    for parameter in (*model.trunk.parameters(), *model.heads.parameters()):
        parameter.requires_grad_()
    before = digest_model(model, ALONE)
    optimizer = torch.optim.SGD(dense_state(model).values(), lr=0.1)
    embedded = model.embed(rows.ids, rows=12).means
    model(rows.ids, rows.numeric_BN).square().sum().backward()
    optimizer.step()
    after = digest_model(model, ALONE)
    changed = {name for name in before.by_name if before.by_name[name] != after.by_name[name]}
    assert not any(part.requires_grad for part in embedded)
    assert changed == set(dense_state(model))


def test_fp32_has_the_digest_of_the_tables_it_was_read_from():
    assert digest_model(frozen_model(all_in("fp32")), ALONE) == digest_model(small_model(), ALONE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_changed_byte_changes_the_digest(precision):
    model = frozen_model(all_in(precision))
    before = digest_model(model, ALONE)
    for local in unwrap(model).tables.local_rows:
        for place in (0, local.bytes_RN.numel() // 2, local.bytes_RN.numel() - 1):
            local.bytes_RN.flatten()[place] ^= 1
            assert digest_model(model, ALONE) != before
            local.bytes_RN.flatten()[place] ^= 1
    assert digest_model(model, ALONE) == before


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([4, 8])), min_size=1, max_size=5),
    kinds=st.lists(st.sampled_from(["row_wise", "table_wise", "column_wise"]), max_size=5),
    precisions=st.lists(st.sampled_from(["int8", "fp32"]), min_size=5, max_size=5),
    world=st.integers(2, 5),
)
def test_every_row_has_one_place_that_all_workers_know(sizes, kinds, precisions, world):
    """Each id of each lane becomes a row of its owner's stack that no other id has."""
    shapes = [
        TableShape(name=f"t{i}", rows=rows, width=width, features=(f"f{i}", f"g{i}"))
        for i, (rows, width) in enumerate(sizes)
    ]
    overrides = {
        s.name: k
        for s, k in zip(shapes, kinds, strict=False)
        if not (k == "row_wise" and s.rows < world)
    }
    plan = planned(world, shapes, **overrides)
    names = [shape.name for shape in shapes]
    by_table = dict(zip(names, precisions, strict=False))
    stacks = stacks_of(shapes, list(planned_pieces(plan)), by_table)
    held = 0
    for stack in stacks:
        taken = set()
        for number, lane in enumerate(stack.lanes):
            owners, rows = stack.address(
                [number], [torch.arange(lane.rows)], torch.empty(0, dtype=torch.int32)
            )
            places = set(zip(owners.tolist(), rows.tolist(), strict=True))
            assert len(places) == lane.rows
            assert all(row < stack.rows_on(owner) for owner, row in places)
            for piece in (p for p in stack.pieces if (p.table, p.col) == (lane.table, lane.col)):
                own = {(piece.rank, piece.first + row) for row in range(piece.rows)}
                assert own <= places
            if lane.feature.startswith("f"):
                assert not taken & places
                taken |= places
        held += sum(stack.rows_on(rank) for rank in range(world)) * stack.width
    wanted = sum(shape.rows * shape.width for shape in shapes)
    assert wanted <= held <= wanted + sum((world - 1) * shape.width for shape in shapes)


def test_the_tables_say_where_they_lie():
    lines = {line.table: line for line in frozen_tables(MIXED).describe()}
    assert lines["shop"].model_dump(mode="json") == {
        "table": "shop", "type": "table_wise", "precision": "int4", "ranks": [0], "rows": 50,
        "width": 16, "bytes_per_rank": [50 * 12],
    }  # fmt: skip


def test_shards_show_what_is_stored():
    tables = frozen_tables(MIXED)
    by_table = {shard.table: shard for shard in tables.local_shards()}
    assert {name: shard.tensor_RW.dtype for name, shard in by_table.items()} == {
        "user": torch.uint8, "hour": torch.float32, "shop": torch.uint8,
    }  # fmt: skip
    assert by_table["user"].tensor_RW.shape == (101, 12)
    copies = [dataclasses.replace(s, tensor_RW=s.tensor_RW.clone()) for s in by_table.values()]
    assert digest(copies) == digest(local_shards_of(tables))


def local_shards_of(tables):
    model = small_model("meta")
    model.tables = tables
    return local_shards(model)
