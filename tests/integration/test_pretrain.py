"""Pre-training stopped after any checkpoint and resumed ends as if it had never stopped."""

import dataclasses
import json
import shutil
from unittest import mock

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.base import checkpoint
from iak.pipeline.base import published_base as bases
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.trainer import Pretraining, learning_rates
from iak.pipeline.base.validation import mean_loss
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.process import run_on_workers
from iak.pipeline.sharding import rectangles
from iak.pipeline.sharding.adagrad_state import local_accumulators
from iak.pipeline.sharding.placement_rule import as_document, describe, plan_tables
from iak.pipeline.sharding.shard import dense_state, digest_model, local_shards
from iak.schemas.job import BaseOptimSpec, EvaluatedTablesSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import PlacementRuleSpec, PlacementSpec, ResolvedPlacement
from tests.integration.small_log import (
    catalog,
    catalog_document,
    pretrain_spec,
    pretrain_work,
    publish,
    write_log,
)
from tests.integration.workers import StayingWorkers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RUNS = ("whole batches", "uneven")
VALID_BATCH = 64


class Killed(Exception):
    """A worker's end, as far as a test can play it."""


class Dying(Pretraining):
    """Dies once it has written the checkpoint of a step."""

    def __init__(self, *args, dies_at, **kwargs):
        self.dies_at = dies_at
        super().__init__(*args, **kwargs)

    def save(self):
        super().save()
        if self.state.step >= self.dies_at:
            raise Killed


def silent(_):
    return


def days_of(days, share=1.0):
    """A catalogue whose pre-training window is so many days, or a share of their rows."""
    document = catalog_document()
    document["splits"] = {
        "pretrain": {"days": [0, days - 1], "slice": [0.0, share]},
        "valid": {"days": [days, -1]},
    }
    return Catalog.model_validate(document)


def window(log, is_whole):
    """A window, and rows a worker's batch, that end an epoch on a whole batch, or do not."""
    for days in (4, 5):
        for share in (1.0, 0.98, 0.96, 0.94):
            view = open_log(days_of(days, share), str(log), wanted=["pretrain"])
            rows = view.selections["pretrain"].rows
            for local in range(24, 48):
                if (rows % (2 * local) == 0) == is_whole:
                    return days_of(days, share), local
    raise AssertionError("no such window; try other shares")


def weights(training):
    shards = {(s.table, s.row_offset): s.tensor_RW.clone() for s in local_shards(training.model)}
    dense = {n: p.detach().clone() for n, p in dense_state(training.model).items()}
    adam = checkpoint.optimizer_tensors(training.adam, training.dense)
    moments = {n: t.clone() for n, t in adam.items()}
    squares = {
        (s.table, s.row_offset, "momentum"): s.tensor_RW.clone()
        for s in local_accumulators(training.model)
    }
    return shards | dense | moments | squares


def finished(training, worker):
    """What a run came to, weights and all."""
    result = training.run().as_json()
    dist.barrier()
    best = json.loads((training.work.run_dir / ".best" / "weights.json").read_text())
    return {
        "result": result,
        "weights": weights(training),
        "digest": digest_model(training.model, worker).combined,
        "best": best["digest"],
    }


def copied(work, name, **changes):
    run_dir = work.run_dir.with_name(name)
    run_dir.mkdir(exist_ok=True)
    return dataclasses.replace(work, run_dir=run_dir, **changes)


def ask_whole(worker, works):
    """Uninterrupted runs, and what their models validate to."""
    answers = {}
    for name, work in works.items():
        whole = Pretraining(copied(work, f"{name}-whole"), worker=worker, report=silent)
        answers[name] = finished(whole, worker) | {
            "rows": whole.train.rows,
            "steps": (whole.steps_per_epoch, whole.steps),
            "validation": ask_validation(whole, worker),
        }
    return answers


def ask_resumed(worker, work, steps):
    """The same run, killed at each step and resumed: step -> what it came to."""
    answers = {}
    for step in steps:
        again = copied(work, f"killed-{step}", checkpoint_every_steps=step)
        with pytest.raises(Killed):
            Dying(again, worker=worker, report=silent, dies_at=step).run()
        dist.barrier()
        events = []
        resumed = Pretraining(again, worker=worker, report=events.append)
        assert events == [{"event": "resumed", "step": step}]
        answers[step] = finished(resumed, worker)
        if worker.rank == 0:
            shutil.rmtree(again.run_dir)
    return answers


def flipped(data):
    return data[:-5] + bytes([data[-5] ^ 2]) + data[-4:]


DAMAGES = {  # what becomes of a file of the newest checkpoint
    "state.json, a byte": ("state.json", flipped),
    "state.json, missing": ("state.json", None),
    "dense part": ("dense.safetensors", flipped),
    "a table, torn": ("tables/user_id/*", lambda data: data[:-1]),
    "a table, missing": ("tables/user_id/*", None),
    "momentum": ("momentum/user_id/*", flipped),
    "adam": ("adam.safetensors", flipped),
}


def damage(place, name):
    """Damage the last of the files of a name."""
    pattern, change = DAMAGES[name]
    path = max(place.glob(pattern))
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def ask_damaged(worker, work):
    """Two checkpoints; what a run comes to whose newest, or whose every one, is damaged."""
    kept = copied(work, "kept", checkpoint_every_steps=2)
    with pytest.raises(Killed):
        Dying(kept, worker=worker, report=silent, dies_at=4).run()
    dist.barrier()

    def resumed(name, change, view=None):
        again = copied(kept, f"damaged-{name}")
        if worker.rank == 0:
            shutil.copytree(kept.run_dir, again.run_dir, dirs_exist_ok=True)
            change(again.run_dir / "checkpoints")
        dist.barrier()
        events = []
        with view or mock.MagicMock():
            training = Pretraining(again, worker=worker, report=events.append)
        dist.barrier()
        left = sorted(p.name for p in (again.run_dir / "checkpoints").iterdir())
        return training, {"events": events, "weights": weights(training), "left": left}

    newest, before = "step-00000004", "step-00000002"
    found = {"expected": resumed("not", lambda place: shutil.rmtree(place / newest))[1]}
    for name in DAMAGES:
        training, found[name] = resumed(name, lambda place, name=name: damage(place / newest, name))
        assert training.state.step == 2
    training, found["seen by one"] = resumed("one", lambda _: None, unreadable_for_one(worker))
    found["to the end"] = finished(training, worker)

    def damage_all(place):
        for step in (newest, before):
            damage(place / step, "adam")

    with pytest.raises(Corrupt) as refused:
        resumed("all", damage_all)
    return found | {"all": str(refused.value)}


def unreadable_for_one(worker):
    """Worker 1 alone cannot read a table of the newest checkpoint."""
    real = rectangles.verify_file

    def verify(directory, entry):
        if worker.rank == 1 and directory.name == "step-00000004" and entry.table:
            raise Corrupt(f"{entry.path} as worker 1 sees it")
        real(directory, entry)

    return mock.patch.object(rectangles, "verify_file", verify)


def ask_validation(training, worker):
    """The validation loss in batches of any size, and the rows it read."""
    losses, given = [], []
    for batch_rows in (VALID_BATCH, 7):
        given.append(sum(len(t) for t in training.valid.in_step(batch_rows)))
        losses.append(mean_loss(training.model, training.valid, training.tasks, batch_rows, worker))
    counted = torch.tensor(given)
    dist.all_reduce(counted)
    return losses, counted.tolist(), training.work.view.selections["valid"].rows


def ask_continued(worker, work):
    """A run that starts from a published base, before and after its first step."""
    parent = work.run_dir / "parent"
    child = copied(work, "child", from_base=parent / "base", epochs=1)
    base = FrozenBase.load(
        bases.open_base(parent), EvaluatedTablesSpec(),
        ResolvedPlacement(row_wise_from_rows=100), worker,
    )  # fmt: skip
    training = Pretraining(child, worker=worker, report=silent)
    start = digest_model(training.model, worker).combined
    before = mean_loss(training.model, training.valid, training.tasks, VALID_BATCH, worker)
    result = training.run().as_json()
    return {
        "parent": base.digest().combined, "start": start, "before": before,
        "result": result, "after": digest_model(training.model, worker).combined,
    }  # fmt: skip


def ask_parent(worker, spec, work):
    result = Pretraining(work, worker=worker, report=silent).run()
    return publish(spec, work, result), result.as_json()


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """Runs over different windows: their rows per worker are, and are not, whole batches."""
    place = tmp_path_factory.mktemp("pretrain")
    log = write_log(place / "log", rows=8 * 64 * 2, regions=("a",), skew=1.0, users=100)
    works = {}
    for name in RUNS:
        described, local = window(log, is_whole=name == "whole batches")
        spec = pretrain_spec(
            log,
            place / name / "work",
            batch_rows=2 * local,
            validations_per_epoch=2,
            shuffle_rows=100,
        )
        works[name] = pretrain_work(spec, described)
    spec = pretrain_spec(log, works["uneven"].run_dir / "parent", epochs=1, batch_rows=50)
    run_on_workers(ask_parent, 1, spec, pretrain_work(spec, days_of(4)))
    return works


@pytest.fixture(scope="module")
def workers():
    with StayingWorkers(2) as staying:
        yield staying


@pytest.fixture(scope="module")
def whole(workers, works):
    """What the undisturbed runs came to, by worker and name."""
    return workers.run(ask_whole, works)


@pytest.fixture(scope="module")
def damaged(workers, works):
    return workers.run(ask_damaged, works["uneven"])


@pytest.mark.parametrize("name", RUNS)
def test_resumed_after_any_checkpoint_is_uninterrupted_bit_for_bit(workers, works, whole, name):
    per_epoch, last = whole[0][name]["steps"]
    steps = {1, 2, per_epoch - 1, per_epoch, per_epoch + 1, last - 1, last}
    by_rank = workers.run(ask_resumed, works[name], sorted(steps))
    for answers, all_resumed in zip(whole, by_rank, strict=True):
        done = answers[name]
        for step, resumed in all_resumed.items():
            assert resumed["result"] == done["result"], step
            assert resumed["digest"] == done["digest"], step
            assert resumed["best"] == done["best"], step
            for part, expected in done["weights"].items():
                assert torch.equal(resumed["weights"][part], expected), (step, part)


@pytest.mark.parametrize("name", [*DAMAGES, "seen by one"])
def test_of_a_damaged_checkpoint_all_workers_go_back_to_the_one_before(damaged, name):
    for answers in damaged:
        found, expected = answers[name], answers["expected"]
        assert found["weights"].keys() == expected["weights"].keys()
        assert all(torch.equal(found["weights"][n], w) for n, w in expected["weights"].items())
        assert found["left"] == ["step-00000002"]
    resumed, *told = damaged[0][name]["events"]
    assert resumed == {"event": "resumed", "step": 2}
    path = DAMAGES[name][0].rstrip("*") if name in DAMAGES else "as worker 1 sees it"
    assert "step-00000004 is damaged" in told[0]["message"]
    assert path in told[0]["message"]
    assert "goes on from step-00000002" in told[1]["message"]


def test_resumed_from_the_checkpoint_before_it_ends_as_uninterrupted_bit_for_bit(damaged, whole):
    for mine, answers in zip(damaged, whole, strict=True):
        found, done = mine["to the end"], answers["uneven"]
        assert (found["digest"], found["best"]) == (done["digest"], done["best"])
        assert len(found["result"]["loaded"]) == 2
        assert found["result"] | {"loaded": []} == done["result"]
        for part, expected in done["weights"].items():
            assert torch.equal(found["weights"][part], expected), part


def test_where_all_checkpoints_are_damaged_the_run_is_refused_with_what_to_do(damaged):
    for answers in damaged:
        told = answers["all"]
        for words in ("step-00000004", "step-00000002", "adam.safetensors", "or remove"):
            assert words in told


def test_the_runs_are_what_they_are_meant_to_be(whole, works):
    """Epochs that end on a whole batch on both workers, and epochs that do not."""
    for answers in whole:
        for name, work in works.items():
            left = answers[name]["rows"] % (work.batch_rows // 2)
            assert (left == 0) == (name == "whole batches")
            per_epoch, steps = answers[name]["steps"]
            assert steps == 2 * per_epoch > 12


def test_every_row_is_trained_on_once_an_epoch(whole, works):
    for answers in whole:
        for name, work in works.items():
            rows = work.view.selections["pretrain"].rows
            assert answers[name]["result"]["rows"] == 2 * rows
            assert sum(a[name]["rows"] for a in whole) == rows


@pytest.mark.parametrize("name", RUNS)
def test_validation_drops_no_row(whole, name):
    for answers in whole:
        losses, given, rows = answers[name]["validation"]
        assert given == [rows, rows]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_run_from_a_base_starts_as_that_base_and_learns_on(workers, works):
    for continued in workers.run(ask_continued, works["uneven"]):
        assert continued["start"] == continued["parent"] != continued["after"]
        assert continued["result"]["best_valid_loss"] < continued["before"]


def test_a_base_that_is_not_there_is_refused_in_words(tmp_path):
    with pytest.raises(BadRequest, match="no published base"):
        bases.open_base(tmp_path)


def test_another_catalogue_cannot_use_a_base(works):
    opened = bases.open_base(works["uneven"].run_dir / "parent")
    bases.check_same_schema(opened, catalog())
    document = catalog_document()
    document["features"] = document["features"][:-1]
    with pytest.raises(BadRequest, match="features differ"):
        bases.check_same_schema(opened, Catalog.model_validate(document))


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.1), (9, 1.0), (59, 1.0), (60, 1.0), (80, 0.5), (99, 0.025)]
)
def test_rates_rise_and_then_fall(step, share):
    optim = BaseOptimSpec(warmup_steps=10, decay_share=0.4, table_lr=0.5, dense_lr=0.25)
    assert learning_rates(optim, step, 100) == pytest.approx((0.5 * share, 0.25 * share))


def test_rates_may_stay():
    optim = BaseOptimSpec(warmup_steps=0, decay_share=0, table_lr=0.5, dense_lr=0.25)
    assert learning_rates(optim, 99, 100) == (0.5, 0.25)


def test_a_log_without_the_split_is_refused(works):
    root = works["uneven"].view.snapshot.uri.removesuffix("/events")
    with pytest.raises(BadRequest, match="declares no split"):
        open_log(days_of(4), root, wanted=["tune"])


def ask_where(worker, work):
    training = Pretraining(work, worker=worker, report=silent)
    shards = local_shards(training.model)
    held = {(s.table, s.row_offset, s.col_offset, tuple(s.tensor_RW.shape)) for s in shards}
    return describe(training.plan), held


def test_a_saved_plan_is_followed_exactly(tmp_path):
    log = write_log(tmp_path / "log", rows=8 * 64, regions=("a",), skew=1.0, users=100)
    spec = pretrain_spec(log, tmp_path / "by-rule")
    work = pretrain_work(spec, days_of(4))
    shapes = bases.table_shapes(work.view.catalog, work.encoding, work.model)
    kinds = ("column_wise", "table_wise", "row_wise")
    asked = {shape.name: kind for shape, kind in zip(shapes, kinds, strict=False)}
    rule = PlacementRuleSpec(sharding=asked, row_wise_from_rows=10**9)
    made = plan_tables(shapes, world=2, device=torch.device("cpu"), rule=rule)
    file = tmp_path / "plan.json"
    file.write_text(as_document(made, job="pretrain", world=2).model_dump_json())
    changes = {"workers": 2, "placement": PlacementSpec(plan=file)}
    planned = spec.model_copy(update={**changes, "run_dir": tmp_path / "planned"})
    answers = run_on_workers(ask_where, 2, pretrain_work(planned, days_of(4)))
    assert [told for told, _ in answers] == [describe(made)] * 2
    assert {line.table: line.type for line in answers[0][0]}.items() >= asked.items()
    for rank, (_, held) in enumerate(answers):
        wanted = {
            (t.table, s.row, s.col, (s.rows, s.cols))
            for t in as_document(made, job="pretrain", world=2).tables
            for s in t.shards
            if s.rank == rank
        }
        assert held == wanted
    with pytest.raises(BadRequest, match="workers: plan 2, job 3"):
        pretrain_work(planned.model_copy(update={"workers": 3}), days_of(4))
