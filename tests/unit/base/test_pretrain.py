"""A pre-training's checkpoint goes on with the log that it was written on, and with no other."""

import dataclasses
import tomllib
from collections import Counter

import pytest

from iak.pipeline.base import pretrain as base_pretrain
from iak.pipeline.base.best_weights import read_best
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.base.pretrain_work import BEST
from iak.pipeline.base.published_base import open_base
from iak.pipeline.base.train_state import TrainState, restored_state
from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.base.trials import SETS
from iak.pipeline.data.reader import Cursor
from iak.pipeline.errors import BadLog, Diverged
from iak.pipeline.events import silent
from iak.pipeline.process import process_group
from iak.pipeline.sharding.shard import digest_model, local_shards
from iak.schemas.job import FrozenTablesSpec, PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.plan import ResolvedPlacement
from tests.builders import draw_rows, write_file, write_log
from tests.integration.small_log import pretrain_work, publish
from tests.unit.jobs.test_pretrain import CATALOG, MODEL, pytestmark  # noqa: F401 - the same

DESCRIBED = Catalog.model_validate(tomllib.loads(CATALOG.format(label="click", kind="click")))


class Killed(Exception):
    """A worker's end."""


class Dying(Pretraining):
    """Dies once it has written a checkpoint."""

    def save(self):
        super().save()
        raise Killed


def spec_of(root):
    return PretrainSpec.model_validate(
        {
            "catalog": "small", "data_root": str(root), "run_dir": root / "run", "model": MODEL,
            "workers": 1, "epochs": 2, "batch_rows": 32,
        }
    )  # fmt: skip


def work_of(root, **changes):
    return dataclasses.replace(pretrain_work(spec_of(root), DESCRIBED), **changes)


@pytest.mark.parametrize("is_whole_epoch", [False, True], ids=["within an epoch", "after one"])
def test_a_checkpoint_is_resumed_on_its_own_log_alone(tmp_path, is_whole_epoch):
    write_log(tmp_path / "events", [("ningbo", "2026-10-01", [150]), ("wuxi", "2026-10-02", [150])])
    with process_group(0, 1, backend="gloo") as worker:
        per_epoch = Pretraining(work_of(tmp_path), worker=worker, report=print).steps_per_epoch
        every = per_epoch if is_whole_epoch else 2
        with pytest.raises(Killed):
            Dying(
                work_of(tmp_path, checkpoint_every_steps=every), worker=worker, report=print
            ).run()
        same = Pretraining(work_of(tmp_path), worker=worker, report=print)
        assert same.state.step == every
        assert next(same.rest_of_epoch())[0].rows > 0
        path = next((tmp_path / "events").rglob("part-00000.parquet"))
        write_file(path, draw_rows(150, first=1_000))
        other = Pretraining(work_of(tmp_path), worker=worker, report=print)
        with pytest.raises(BadLog, match="changed since the checkpoint"):
            next(other.rest_of_epoch())


def test_other_workers_take_an_epoch_up_from_its_start_and_on_the_same_rows(tmp_path):
    write_log(tmp_path / "events", [("ningbo", "2026-10-01", [150])])
    with process_group(0, 1, backend="gloo") as worker:
        training = Pretraining(work_of(tmp_path), worker=worker, report=print)
        cursor = Cursor(epoch=0, file="a", selection="b" * 64, worker="0 of 2")
        written = TrainState(step=3, cursor=cursor, steps_per_epoch=2)
        moved, _ = restored_state([written] * 2, training.steps_per_epoch, worker)
        assert (moved.cursor.epoch, moved.cursor.file) == (1, "")
        training.state = moved
        with pytest.raises(BadLog, match="changed since the checkpoint"):
            next(training.rest_of_epoch())


def test_an_epoch_is_an_iterator_of_steps(tmp_path):
    write_log(tmp_path / "events", [("ningbo", "2026-10-01", [150])])
    with process_group(0, 1, backend="gloo") as worker:
        work = work_of(tmp_path, validations_per_epoch=1)
        whole = Pretraining(work, worker=worker, report=print)
        result = whole.run()
        stepwise = Pretraining(
            dataclasses.replace(work, run_dir=tmp_path / "stepwise"), worker=worker, report=print
        )
        steps = []
        for _ in range(work.epochs):
            assert not (tmp_path / "stepwise" / ".best").exists(), "steps alone write nothing"
            steps += [stepwise.state.step for _ in stepwise.train_steps()]
        assert steps == list(range(1, result.steps + 1))
        assert stepwise.state.rows == result.rows
        assert digest_model(stepwise.model, worker) == digest_model(whole.model, worker)


NAMED = DESCRIBED.model_dump(mode="json", exclude_none=True) | {
    "features": [
        {"kind": "categorical", "name": "type", "column": "user_id"},
        {"kind": "categorical", "name": "items", "column": "item_id"},
        {"kind": "list", "name": "keys", "column": "hist", "table": "items"},
    ]
}


def test_tables_of_any_name_are_trained_resumed_published_and_frozen(tmp_path):
    described = Catalog.model_validate(NAMED)
    write_log(tmp_path / "events", [("ningbo", "2026-10-01", [150]), ("wuxi", "2026-10-02", [150])])
    spec = spec_of(tmp_path)
    work = pretrain_work(spec, described)
    with process_group(0, 1, backend="gloo") as worker:
        with pytest.raises(Killed):
            Dying(
                dataclasses.replace(work, checkpoint_every_steps=3), worker=worker, report=print
            ).run()
        training = Pretraining(work, worker=worker, report=print)
        assert {shard.table for shard in local_shards(training.model)} == {"type", "items"}
        result = training.run()
        manifest = publish(spec, work, result)
        assert {table.name for table in manifest.tables} == {"type", "items"}
        tables = FrozenTablesSpec(precision="fp32")
        frozen = FrozenBase.load(open_base(spec.run_dir), tables, ResolvedPlacement(), worker)
        assert {shard.table for shard in local_shards(frozen.model)} == {"type", "items"}


def tried(root, **changes):
    """The spec and the work of a run with two trials on a small log."""
    write_log(root / "events", [("ningbo", "2026-10-01", [150]), ("wuxi", "2026-10-02", [150])])
    spec = spec_of(root).model_copy(update={"trials": 2, "run_dir": root / "tried"})
    return spec, dataclasses.replace(pretrain_work(spec, DESCRIBED), **changes)


def test_the_best_trial_is_published_as_a_run_with_its_settings_alone_would_be(tmp_path):
    spec, work = tried(tmp_path)
    with process_group(0, 1, backend="gloo") as worker:
        result = pretrain(work, worker=worker, report=silent)
        losses = {trial.name: trial.best_valid_loss for trial in result.trials}
        assert list(losses) == ["plain", "damped"]
        assert result.trial == min(losses, key=losses.get)
        assert result.best_valid_loss == losses[result.trial]
        manifest = publish(spec, work, result)
        for trial in work.trials:
            alone = dataclasses.replace(
                work.of_trial(trial), trial="", run_dir=tmp_path / f"{trial.name} alone"
            )
            alone_result = pretrain(alone, worker=worker, report=silent)
            assert alone_result.best_valid_loss == losses[trial.name]
            digest = read_best(alone.scratch / BEST).digest
            assert (digest == manifest.digest) == (trial.name == result.trial)
    assert manifest.settings.trial_settings == dict(SETS[result.trial])
    assert not (spec.run_dir / "trials").exists()


def test_a_run_that_died_in_a_later_trial_does_not_train_the_first_again(tmp_path, monkeypatch):
    _, work = tried(tmp_path)
    whole = dataclasses.replace(work, run_dir=tmp_path / "whole")
    steps = Counter()

    class Counted(Pretraining):
        def step(self, batch):
            if steps["deadly"] and self.work.trial == "damped" and self.state.step == 3:
                raise Killed
            steps[self.work.trial] += 1
            return super().step(batch)

    monkeypatch.setattr(base_pretrain, "Pretraining", Counted)
    with process_group(0, 1, backend="gloo") as worker:
        expected = pretrain(whole, worker=worker, report=silent)
        first = steps["plain"]
        steps["deadly"] = 1
        with pytest.raises(Killed):
            pretrain(work, worker=worker, report=silent)
        steps["deadly"] = 0
        assert pretrain(work, worker=worker, report=silent) == expected
    assert steps["plain"] == 2 * first, "once in each run"


def test_a_trial_that_diverges_has_lost(tmp_path, monkeypatch):
    _, work = tried(tmp_path)

    class Diverging(Pretraining):
        def step(self, batch):
            loss = super().step(batch)
            return float("nan") if self.work.trial in lost else loss

    monkeypatch.setattr(base_pretrain, "Pretraining", Diverging)
    with process_group(0, 1, backend="gloo") as worker:
        lost = ["plain"]
        result = pretrain(work, worker=worker, report=silent)
        assert (result.trial, result.trials[0].best_valid_loss) == ("damped", None)
        lost = ["plain", "damped"]
        with pytest.raises(Diverged, match="training loss at step 1"):
            pretrain(
                dataclasses.replace(work, run_dir=tmp_path / "both"), worker=worker, report=silent
            )
