"""What W workers wrote under a plan, W' workers read under another: weights, Adagrad state, runs.

Workers start once for many moves: `write_all` writes under many plans, `read_all` reads them.
"""

import copy
import ctypes
import dataclasses
import itertools
import json
import os
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed as dist

from iak.pipeline.base import build, checkpoint, published_base
from iak.pipeline.base.checkpoint_folders import complete
from iak.pipeline.base.train_state import TrainState
from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.base.validation import mean_loss
from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.tables import TableShape
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
from iak.pipeline.sharding.rectangles import FileEntry
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
    """Accumulators that no other row, band or table has."""
    rows_R = torch.arange(len(part.tensor_RW)) + part.row_offset
    return (rows_R + 1000.0 * (1 + part.col_offset) + 0.25 * NAMES.index(part.table))[:, None]


def write_all(worker, root, plans):
    """Write weights and accumulators under each plan; return their entries, by plan."""
    entries = {}
    for number in plans:
        model = moving_model(worker, PLANS[number])
        for part in local_accumulators(model):
            part.tensor_RW.copy_(planted(part))
        folder = root / f"{worker.world}-{number}"
        written = [
            write_base_weights(model, folder, worker, max_file_bytes=800),
            write_accumulators(model, folder, worker, max_file_bytes=100),
        ]
        dist.broadcast_object_list(written)
        entries[worker.world, number] = written
    return entries


class Move(NamedTuple):
    """What one move came to on one worker."""

    digest: str
    loaded: list[str]
    """What was reported of the accumulators."""
    is_right: bool
    """Whether every number of the accumulators is the one that was promised."""
    numbers: int
    """Numbers of the accumulators that this worker has."""


def read_all(worker, root, entries, moves):
    """Read under other plans what was written; return what each move came to."""
    answers = {}
    for (wrote, before), now in moves:
        folder, (files, accumulators) = root / f"{wrote}-{before}", entries[wrote, before]
        model = moving_model(worker, PLANS[now], seed=9)
        for part in local_accumulators(model):
            part.tensor_RW.fill_(-1.0)
        read_base_weights(model, folder, files, worker)
        loaded = read_accumulators(model, folder, accumulators, worker)
        is_right = True
        for part in local_accumulators(model):
            cuts = [
                bands(PLANS[plan], world, part.table)
                for plan, world in ((before, wrote), (now, worker.world))
            ]
            expected = planted(part) if cuts[0] == cuts[1] else torch.zeros_like(part.tensor_RW)
            is_right &= torch.equal(part.tensor_RW, expected)
        numbers = sum(part.tensor_RW.numel() for part in local_accumulators(model))
        digest = digest_model(model, worker).combined
        answers[(wrote, before), now] = Move(digest, loaded, is_right, numbers)
    return answers


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Moves that Hypothesis drew, by the world that reads."""
    root, drawn = tmp_path_factory.mktemp("moving"), {world: set() for world in WORLDS}
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
        entries |= run_on_workers(write_all, world, root, plans)[0]
    return {
        world: run_on_workers(read_all, world, root, entries, sorted(drawn[world]))
        for world in WORLDS
    }


@pytest.mark.parametrize("world", WORLDS)
def test_weights_move_between_any_workers_and_plans(moved, world):
    whole = digest_model(small_model(), ALONE).combined
    assert len(moved[world][0]) > 5
    for answers in moved[world]:
        assert {move.digest for move in answers.values()} == {whole}


@pytest.mark.parametrize("world", WORLDS)
def test_adagrad_state_moves_where_columns_are_cut_alike_and_starts_at_zero_elsewhere(moved, world):
    for answers in moved[world]:
        for ((wrote, before), now), move in answers.items():
            at_zero = {
                table
                for table in NAMES
                if bands(PLANS[before], wrote, table) != bands(PLANS[now], world, table)
            }
            assert {line.split()[1].rstrip(":") for line in move.loaded} == at_zero
            assert all("weights only" in line for line in move.loaded)
            assert move.is_right, (wrote, PLANS[before], PLANS[now])


def test_adagrad_state_is_one_number_per_row_and_band(moved):
    for world in WORLDS:
        for before, now in moved[world][0]:
            rows = sum(s.rows * bands(PLANS[now], world, s.name) for s in SHAPES)
            assert sum(answers[before, now].numbers for answers in moved[world]) == rows


def learning_on(worker, folder):
    """Weights after training twice as long: without a move, with one, and with no accumulators."""
    still = sharded_model(worker, "rows")
    train(worker, still, "halves")
    entries = [
        write_base_weights(still, folder, worker),
        write_accumulators(still, folder, worker),
    ]
    dist.broadcast_object_list(entries)
    trained = {}
    for name in ("moved", "forgetful"):
        model = sharded_model(worker, "tables")
        read_base_weights(model, folder, entries[0], worker)
        if name == "moved":
            assert read_accumulators(model, folder, entries[1], worker) == []
        train(worker, model, "halves")
        trained[name] = weights(model)
    set_tables_lr(still, ADAGRAD.lr)  # the rate at which the others begin
    train(worker, still, "halves")
    return trained | {"still": weights(still)}


def whole_tables_of(answers, name):
    """Every table put together from the workers' parts."""
    whole = {s.table: s.tensor_RW.clone() for s in local_shards(small_model())}
    for worker in answers:
        for part in worker[name][0]:
            rows, cols = part.tensor_RW.shape
            whole[part.table][part.row_offset :, part.col_offset :][:rows, :cols] = part.tensor_RW
    return torch.cat([whole[table].flatten() for table in NAMES])


def test_a_moved_model_learns_on_as_if_it_had_stayed(tmp_path):
    answers = run_on_workers(learning_on, 2, tmp_path)
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


class Load(NamedTuple):
    """What loading a table took on one worker, in bytes."""

    peak: int
    """Memory beside the table."""
    table: int
    is_right: bool | None
    """Whether a grown table has the folded rows; None where it did not grow."""


def memory_of_loads(worker, folder, entries):
    """Load a table as it is, cut otherwise and grown; return what each load took."""
    rule = Growth(rows={"big": RowOrigin(rows_before=BIG.rows, of=fold)})
    loads = {}
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
            read_base_weights(
                model, folder, entries, worker, allow=["table:big:grown"], growth=rule
            )
            peaks.append(memory("VmHWM") - before)
        loads[name] = Load(
            peak=min(peaks),
            table=part.tensor_RW.numel() * 4,
            is_right=is_as_folded(part) if rows > BIG.rows else None,
        )
    return loads


def is_as_folded(part):
    """Whether a part of the grown table is what the table before was, folded."""
    start = big_model(BIG.rows).tables.embedding_bag_configs()[0].init_fn
    rows = np.arange(part.row_offset, part.row_offset + len(part.tensor_RW))
    whole_RW = start(torch.empty(BIG.rows, part.tensor_RW.shape[1]), 0, part.col_offset)
    return torch.equal(part.tensor_RW, whole_RW[torch.from_numpy(fold(rows))])


BESIDE = FILE_BYTES + 10 * MIB
"""A file's pages, buffers of 1 MiB, and what allocators round up."""


def test_loading_takes_no_more_than_a_buffer_beside_the_tables(tmp_path):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not report the peak memory of a process")
    entries = write_base_weights(
        big_model(BIG.rows, "cpu"), tmp_path, ALONE, max_file_bytes=FILE_BYTES
    )
    for answers in run_on_workers(memory_of_loads, 2, tmp_path, entries):
        for name in ("moved", "grown", "grown columns"):
            load = answers[name]
            assert load.peak < BESIDE < load.table / 1.5, name
            assert load.is_right is not False, name
        assert answers["grown in one piece"].peak > BESIDE  # the measure can see a peak


def run_until_killed(worker, work, step):
    with pytest.raises(Killed):
        Dying(work, worker=worker, report=silent, dies_at=step).run()


class Resumed(NamedTuple):
    """A run that went on under another plan."""

    state: TrainState
    """As it was loaded."""
    digest: str
    written_digest: str
    """Digest of the weights in the checkpoint."""
    steps_per_epoch: int
    events: list[dict[str, Any]]
    result: dict[str, Any]
    steps: int
    """Steps of the whole run."""


def resumed_run(worker, work):
    """Load the newest checkpoint, and train to the end."""
    events = []
    folder = complete(work.run_dir / "checkpoints")[0]
    training = Pretraining(work, worker=worker, report=events.append)
    state = dataclasses.replace(training.state)
    digest = digest_model(training.model, worker).combined
    written = written_at(folder, training)
    result = training.run().as_json()
    return Resumed(state, digest, written, training.steps_per_epoch, events, result, training.steps)


def written_at(folder, training):
    """The digest of a checkpoint's weights, as a plain model reads them."""
    work = training.work
    state = json.loads((folder / checkpoint.STATE).read_text())
    model = build.build_model(training.catalog, work.encoding, work.model, seed=8)
    shapes = published_base.table_shapes(training.catalog, work.encoding, work.model)
    model.tables = build_tables(shapes, init_scale=1.0, device=torch.device("cpu"))
    read_base_weights(model, folder, [FileEntry(**entry) for entry in state["weights"]], ALONE)
    return digest_model(model, ALONE).combined


MORE_STEPS = {"between epochs": 0, "in an epoch": 5}
"""Steps after the first epoch at which two workers are killed."""


@pytest.fixture(scope="module", params=MORE_STEPS)
def resumed(request, tmp_path_factory):
    """A run of two workers that one worker goes on with, its rows, and steps of its 2nd epoch."""
    root, more = tmp_path_factory.mktemp("resumed"), MORE_STEPS[request.param]
    log = write_log(root / "log", rows=2_000)
    spec = pretrain_spec(log, root / "run", placement={"row_wise_from_rows": 100}, batch_rows=128)
    work = pretrain_work(spec, catalog())
    rows = work.view.selections["pretrain"].rows
    step = -(-rows // 2 // 64) + more
    killed = dataclasses.replace(work, checkpoint_every_steps=step)
    run_on_workers(run_until_killed, 2, killed, step)
    moved = dataclasses.replace(
        work, placement=ResolvedPlacement(sharding={"item_id": "table_wise"})
    )
    (run,) = run_on_workers(resumed_run, 1, moved)
    return run, rows, more


def test_a_run_goes_on_with_the_weights_that_other_workers_wrote(resumed):
    run, _, _ = resumed
    assert run.digest == run.written_digest


def test_a_run_goes_on_at_the_beginning_of_the_epoch(resumed):
    run, rows, more = resumed
    assert (run.state.step, run.state.cursor.epoch) == (run.steps_per_epoch, 1)
    assert run.result["steps"] == run.steps
    assert rows <= run.result["rows"] - rows < rows + more * 128 + 1


def test_a_run_reports_that_other_workers_wrote_its_checkpoint(resumed):
    run, _, more = resumed
    (loaded,) = run.state.loaded
    assert loaded.startswith("2 workers wrote the checkpoint, 1 go on")
    assert ("trained on twice" in loaded) == bool(more)
    assert {"event": "loaded", "message": loaded} in run.events
    assert run.result["loaded"] == [loaded]


class Start(NamedTuple):
    """How a run from a base began, and what it came to."""

    loss: float
    """Validation loss before its first step."""
    loaded: list[str]
    """What it reported of its load."""
    best_loss: float


def starts_of(worker, works):
    """Train each run; return how it began."""
    starts = {}
    for name, work in works.items():
        training = Pretraining(work, worker=worker, report=silent)
        loss = mean_loss(training.model, training.valid, training.tasks, 64, worker)
        starts[name] = Start(loss, training.state.loaded, training.run().best_valid_loss)
    return starts


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Runs from one base, with its own catalogue and with a larger one, of each worker.

    Also the differences that the second one had to allow.
    """
    root = tmp_path_factory.mktemp("grown")
    log = write_log(root / "log", rows=2_000)
    smaller = copy.deepcopy(catalog_document())
    smaller["features"] = [f for f in smaller["features"] if f["name"] != "weekday"]
    smaller["splits"]["pretrain"]["slice"] = [0.0, 0.2]
    smaller = Catalog.model_validate(smaller)
    run_on_workers(publish_base, 1, log, root / "parent", smaller)

    def continued(name, described, allow=()):
        asked = {"from": root / "parent", "allow": allow, "epochs": 1}
        return pretrain_work(pretrain_spec(log, root / name, **asked), described)

    with pytest.raises(BadRequest, match="table:weekday:missing") as refused:
        continued("grown", catalog())
    allow = [*re.findall(r"allow=(\S+)", str(refused.value)), "table:user_id:grown"]
    works = {
        "same": continued("same", smaller),
        "grown": continued("grown", catalog(), allow),
    }
    rows = [w.encoding.table_rows(w.view.catalog)["user_id"] for w in works.values()]
    assert rows[0] < rows[1]
    return run_on_workers(starts_of, 2, works), allow


def test_a_run_from_a_base_that_grew_starts_where_the_base_ended(grown):
    for starts in grown[0]:
        assert starts["grown"].loss == pytest.approx(starts["same"].loss, rel=1e-5)
        assert starts["grown"].best_loss < starts["grown"].loss


def test_a_run_from_a_base_that_grew_reports_what_is_new(grown):
    for starts in grown[0]:
        assert starts["same"].loaded == []  # all of the optimisers' state applies
        loaded = starts["grown"].loaded
        accumulators = [line for line in loaded if line.startswith("table ")]
        assert accumulators == [
            "table user_id: the Adagrad state of its new rows starts at zero",
            "table weekday: weights only, its Adagrad state starts at zero; "
            "the base had no such table",
        ]
        differences = {line.partition(": ")[0] for line in loaded if line not in accumulators}
        assert differences == set(grown[1])
