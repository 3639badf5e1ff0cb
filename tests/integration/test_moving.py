"""What W workers wrote under a plan, W' workers read under another: weights, momentum, runs.

A pair of workers and a single one answer for many moves; see `write_all` and `read_all`.
"""

import copy
import ctypes
import dataclasses
import itertools
import json
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed as dist

from iak.pipeline.base import checkpoint, published_base
from iak.pipeline.base.checkpoint_folders import complete
from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.base.validation import mean_loss
from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import TableShape, build_tables
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.sharding import growth as growing
from iak.pipeline.sharding.adagrad_state import (
    local_accumulators,
    read_accumulators,
    write_accumulators,
)
from iak.pipeline.sharding.base_weights import read_base_weights, write_base_weights
from iak.pipeline.sharding.growth import Growth
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.shard import digest_model, local_shards, set_tables_lr, shard
from iak.schemas.log import Catalog
from iak.schemas.plan import PlacementRuleSpec, ResolvedPlacement
from tests.integration.small_log import (
    catalog,
    catalog_document,
    pretrain_spec,
    pretrain_work,
    publish_base,
    write_log,
)
from tests.integration.test_frozen import forget_peak, memory
from tests.integration.test_pretrain import Dying, Killed, silent
from tests.integration.test_sharded import ADAGRAD, sharded_model, train, weights
from tests.unit.model.small import SHAPES, small_model

pytestmark = pytest.mark.slow

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
NAMES = tuple(shape.name for shape in SHAPES)
KINDS = ("row_wise", "table_wise", "column_wise")
PLANS = [dict(zip(NAMES, kinds, strict=True)) for kinds in itertools.product(KINDS, repeat=3)]
WORLDS = (1, 2)
MIB = 2**20


def moving_model(worker, plan, seed=0, **settings):
    rule = PlacementRuleSpec(sharding=plan, row_wise_from_rows=1000)
    made = plan_tables(SHAPES, world=worker.world, device=worker.device, rule=rule)
    model = small_model("meta", seed)
    return shard(model, made, worker=worker, tables_optimizer=ADAGRAD, **settings)


def bands(plan, world, table):
    return 2 if plan[table] == "column_wise" and world == 2 else 1


def planted(part):
    """A momentum that no other row, band or table has."""
    rows_R = torch.arange(len(part.tensor_RW)) + part.row_offset
    return (rows_R + 1000.0 * (1 + part.col_offset) + 0.25 * NAMES.index(part.table))[:, None]


def write_all(worker, place, plans):
    """Weights and momentum under each plan; their entries, by plan."""
    found = {}
    for number in plans:
        model = moving_model(worker, PLANS[number])
        for part in local_accumulators(model):
            part.tensor_RW.copy_(planted(part))
        folder = place / f"{worker.world}-{number}"
        held = [
            write_base_weights(model, folder, worker, max_file_bytes=800),
            write_accumulators(model, folder, worker, max_file_bytes=100),
        ]
        dist.broadcast_object_list(held)
        found[worker.world, number] = held
    return found


def read_all(worker, place, entries, moves):
    """What each move came to: digest, what was said, and whether every number is as promised."""
    found = {}
    for (wrote, before), now in moves:
        folder, (files, remembered) = place / f"{wrote}-{before}", entries[wrote, before]
        model = moving_model(worker, PLANS[now], seed=9)
        for part in local_accumulators(model):
            part.tensor_RW.fill_(-1.0)
        read_base_weights(model, folder, files, worker)
        told = read_accumulators(model, folder, remembered, worker)
        is_right = True
        for part in local_accumulators(model):
            cuts = [
                bands(PLANS[plan], world, part.table)
                for plan, world in ((before, wrote), (now, worker.world))
            ]
            expected = planted(part) if cuts[0] == cuts[1] else torch.zeros_like(part.tensor_RW)
            is_right &= torch.equal(part.tensor_RW, expected)
        held = sum(part.tensor_RW.numel() for part in local_accumulators(model))
        found[(wrote, before), now] = digest_model(model, worker).combined, told, is_right, held
    return found


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Moves that Hypothesis drew, by the world that reads."""
    place, drawn = tmp_path_factory.mktemp("moving"), {world: set() for world in WORLDS}
    plan = st.integers(0, len(PLANS) - 1)

    @settings(max_examples=60)
    @given(wrote=st.sampled_from(WORLDS), reads=st.sampled_from(WORLDS), before=plan, now=plan)
    def draw(wrote, reads, before, now):
        drawn[reads].add(((wrote, before), now))

    draw()
    asked = drawn[1] | drawn[2]
    entries = {}
    for world in WORLDS:
        plans = sorted({before for (wrote, before), _ in asked if wrote == world})
        entries |= run_on_workers(write_all, world, place, plans)[0]
    return {
        world: run_on_workers(read_all, world, place, entries, sorted(drawn[world]))
        for world in WORLDS
    }


@pytest.mark.parametrize("world", WORLDS)
def test_weights_move_between_any_workers_and_plans(moved, world):
    whole = digest_model(small_model(), ALONE).combined
    assert len(moved[world][0]) > 5
    for answers in moved[world]:
        assert {digest for digest, *_ in answers.values()} == {whole}


@pytest.mark.parametrize("world", WORLDS)
def test_momentum_moves_where_columns_are_cut_alike_and_starts_anew_elsewhere(moved, world):
    for answers in moved[world]:
        for ((wrote, before), now), (_, told, is_right, _) in answers.items():
            anew = {
                table
                for table in NAMES
                if bands(PLANS[before], wrote, table) != bands(PLANS[now], world, table)
            }
            assert {line.split()[1].rstrip(":") for line in told} == anew
            assert all("weights only" in line for line in told)
            assert is_right, (wrote, PLANS[before], PLANS[now])


def test_momentum_is_one_number_a_row_and_band(moved):
    for world in WORLDS:
        for move in moved[world][0]:
            rows = sum(s.rows * bands(PLANS[move[1]], world, s.name) for s in SHAPES)
            assert sum(answers[move][3] for answers in moved[world]) == rows


def ask_learning(worker, place):
    """Trained twice as long without a move, with one, and with one that forgot the momentum."""
    still = sharded_model(worker, "rows")
    train(worker, still, "halves")
    held = [
        write_base_weights(still, place, worker),
        write_accumulators(still, place, worker),
    ]
    dist.broadcast_object_list(held)
    found = {}
    for name in ("moved", "forgetful"):
        model = sharded_model(worker, "tables")
        read_base_weights(model, place, held[0], worker)
        if name == "moved":
            assert read_accumulators(model, place, held[1], worker) == []
        train(worker, model, "halves")
        found[name] = weights(model)
    set_tables_lr(still, ADAGRAD.lr)  # as the others begin
    train(worker, still, "halves")
    return found | {"still": weights(still)}


def whole_tables_of(answers, name):
    """Every table put together from the workers' parts."""
    whole = {s.table: s.tensor_RW.clone() for s in local_shards(small_model())}
    for worker in answers:
        for part in worker[name][0]:
            rows, cols = part.tensor_RW.shape
            whole[part.table][part.row_offset :, part.col_offset :][:rows, :cols] = part.tensor_RW
    return torch.cat([whole[table].flatten() for table in NAMES])


def test_a_moved_model_learns_on_as_if_it_had_stayed(tmp_path):
    answers = run_on_workers(ask_learning, 2, tmp_path)
    tables = {name: whole_tables_of(answers, name) for name in ("still", "moved", "forgetful")}
    torch.testing.assert_close(tables["moved"], tables["still"], atol=2e-6, rtol=1e-5)
    assert not torch.allclose(tables["forgetful"], tables["still"], atol=1e-3)


BIG = TableShape(name="big", rows=200_000, width=64, features=("f",))
FILE_BYTES = 4 * MIB


def big_model(rows, device="meta"):
    model = small_model("meta")
    shape = dataclasses.replace(BIG, rows=rows)
    model.tables = build_tables([shape], init_scale=0.1, device=torch.device(device))
    model.table_sizes = {"big": (rows, BIG.width)}
    return model


def fold(rows_R):
    return np.where(rows_R < 2, rows_R, 2 + (rows_R - 2) % (BIG.rows - 2))


def ask_memory(worker, place, entries):
    """Memory that loading takes beside the tables, moved to another cut, and grown."""
    rule = Growth(rows={"big": RowOrigin(rows_before=BIG.rows, of=fold)})
    found = {}
    for name, rows, kind in (
        ("warm", BIG.rows, "row_wise"),
        ("moved", BIG.rows, "column_wise"),
        ("grown", 2 * BIG.rows - 2, "row_wise"),
        ("grown columns", 2 * BIG.rows - 2, "column_wise"),
        ("grown in one piece", 2 * BIG.rows - 2, "row_wise"),
    ):
        growing.BUFFER_BYTES = 1024 * MIB if name.endswith("one piece") else MIB
        plan = plan_tables(
            [dataclasses.replace(BIG, rows=rows)], world=worker.world, device=worker.device,
            rule=PlacementRuleSpec(sharding={"big": kind}),
        )  # fmt: skip
        model = shard(
            big_model(rows), plan, worker=worker, tables_optimizer=ADAGRAD, initialise=False
        )
        (part,) = local_shards(model)
        part.tensor_RW.fill_(1.0)  # every page is there
        peaks = []
        for _ in range(3):  # what an allocator rounds up differs from one load to the next
            ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide a peak
            before = forget_peak()
            read_base_weights(model, place, entries, worker, allow=["table:big:grown"], growth=rule)
            peaks.append(memory("VmHWM") - before)
        held = part.tensor_RW.numel() * 4
        found[name] = (
            min(peaks),
            held,
            is_as_folded(part) if rows > BIG.rows else None,
        )
    return found


def is_as_folded(part):
    """Whether a part of the grown table is what the table before was, folded."""
    start = big_model(BIG.rows).tables.embedding_bag_configs()[0].init_fn
    rows = np.arange(part.row_offset, part.row_offset + len(part.tensor_RW))
    whole_RW = start(torch.empty(BIG.rows, part.tensor_RW.shape[1]), 0, part.col_offset)
    return torch.equal(part.tensor_RW, whole_RW[torch.from_numpy(fold(rows))])


BESIDE = FILE_BYTES + 10 * MIB
"""A file's pages, buffers of 1 MiB, and what allocators round up."""


def test_loading_holds_a_buffer_besides_the_tables(tmp_path):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell a process its peak memory")
    entries = write_base_weights(
        big_model(BIG.rows, "cpu"), tmp_path, ALONE, max_file_bytes=FILE_BYTES
    )
    for answers in run_on_workers(ask_memory, 2, tmp_path, entries):
        for name in ("moved", "grown", "grown columns"):
            peak, held, is_right = answers[name]
            assert peak < BESIDE < held / 1.5, name
            assert is_right is not False, name
        assert answers["grown in one piece"][0] > BESIDE  # a peak is seen


def ask_until_killed(worker, work, step):
    with pytest.raises(Killed):
        Dying(work, worker=worker, report=silent, dies_at=step).run()


def ask_resumed(worker, work):
    """The run as it stands once it has been loaded, and its end."""
    events = []
    place = complete(work.run_dir / "checkpoints")[0]
    training = Pretraining(work, worker=worker, report=events.append)
    standing = dataclasses.replace(training.state)
    digest = digest_model(training.model, worker).combined
    written = written_at(place, training)
    result = training.run().as_json()
    return {
        "standing": standing, "digest": digest, "written": written, "events": events,
        "per_epoch": training.steps_per_epoch, "result": result, "steps": training.steps,
    }  # fmt: skip


def written_at(place, training):
    """The digest of a checkpoint's weights, as a plain model reads them."""
    work = training.work
    state = json.loads((place / checkpoint.STATE).read_text())
    model = published_base.build_model(training.catalog, work.encoding, work.model, seed=8)
    shapes = published_base.table_shapes(training.catalog, work.encoding, width=work.model.width)
    model.tables = build_tables(shapes, init_scale=1.0, device=torch.device("cpu"))
    read_base_weights(model, place, state["weights"], ALONE)
    return digest_model(model, ALONE).combined


@pytest.mark.parametrize("begun", [0, 5], ids=["between epochs", "in an epoch"])
def test_a_run_goes_on_under_other_workers_and_another_plan(tmp_path, begun):
    log = write_log(tmp_path / "log", rows=2_000)
    spec = pretrain_spec(
        log, tmp_path / "run", placement={"row_wise_from_rows": 100}, batch_rows=128
    )
    work = pretrain_work(spec, catalog())
    rows = work.view.selections["pretrain"].rows
    step = -(-rows // 2 // 64) + begun  # of the second epoch
    killed = dataclasses.replace(work, checkpoint_every_steps=step)
    run_on_workers(ask_until_killed, 2, killed, step)
    moved = dataclasses.replace(
        work, placement=ResolvedPlacement(sharding={"item_id": "table_wise"})
    )
    (found,) = run_on_workers(ask_resumed, 1, moved)
    assert found["digest"] == found["written"]
    assert found["standing"].step == found["per_epoch"]
    assert found["standing"].cursor.epoch == 1
    (told,) = found["standing"].loaded
    assert told.startswith("2 workers wrote the checkpoint, 1 go on")
    assert ("trained on twice" in told) == bool(begun)
    assert {"event": "loaded", "message": told} in found["events"]
    assert found["result"]["loaded"] == [told]
    assert found["result"]["steps"] == found["steps"]
    assert rows <= found["result"]["rows"] - rows < rows + begun * 128 + 1


def ask_start(worker, works):
    """The validation loss at the start of each run, what was said of its load, and its best."""
    found = {}
    for name, work in works.items():
        training = Pretraining(work, worker=worker, report=silent)
        before = mean_loss(training.model, training.valid, training.tasks, 64, worker)
        found[name] = before, training.state.loaded, training.run().best_valid_loss
    return found


def test_a_run_from_a_base_that_grew_starts_where_the_base_ended(tmp_path):
    log = write_log(tmp_path / "log", rows=2_000)
    smaller = copy.deepcopy(catalog_document())
    smaller["features"] = [f for f in smaller["features"] if f["name"] != "weekday"]
    smaller["splits"]["pretrain"]["slice"] = [0.0, 0.2]
    smaller = Catalog.model_validate(smaller)
    run_on_workers(publish_base, 1, log, tmp_path / "parent", smaller)

    def continued(name, described, allow=()):
        asked = {"from": tmp_path / "parent", "allow": allow, "epochs": 1}
        return pretrain_work(pretrain_spec(log, tmp_path / name, **asked), described)

    with pytest.raises(BadRequest, match="table:weekday:missing") as refused:
        continued("grown", catalog())
    allow = re.findall(r"allow=(\S+)", str(refused.value))
    works = {
        "as it was": continued("as it was", smaller),
        "grown": continued("grown", catalog(), [*allow, "table:user_id:grown"]),
    }
    rows = [w.encoding.table_rows(w.view.catalog)["user_id"] for w in works.values()]
    assert rows[0] < rows[1]
    for answers in run_on_workers(ask_start, 2, works):
        (before, told, _), (grown, told_grown, best) = answers.values()
        assert grown == pytest.approx(before, rel=1e-5)
        assert best < grown
        assert told == []  # the base brings its optimisers' state, and all of it applies
        accumulators = [line for line in told_grown if line.startswith("table ")]
        assert accumulators == [
            "table user_id: the momentum of its new rows starts anew",
            "table weekday: weights only, its momentum starts anew; the base had no such table",
        ]
        differences = {line.partition(": ")[0] for line in told_grown if line not in accumulators}
        assert differences == {*allow, "table:user_id:grown"}
