"""A base that is continued: with its optimiser's state it goes on as if it had never stopped."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from iak.pipeline.base import checkpoint, optimizer_state
from iak.pipeline.base import published_base as bases
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import Corrupt
from iak.pipeline.model.inputs import Input, input_origin
from iak.pipeline.process import process_group, run_on_workers
from iak.pipeline.sharding.adagrad_state import local_accumulators
from iak.pipeline.sharding.growth import Growth
from tests.builders import training_result
from tests.integration.small_log import catalog, pretrain_spec, pretrain_work, publish, write_log
from tests.integration.test_pretrain import silent, weights

pytestmark = [
    pytest.mark.slow,
    # torchrec passes it to torch, which deprecates it in 2.13; workers of their own do not mind.
    pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning"),
]

K, MORE = 5, 6
CONSTANT = {"warmup_steps": 0, "decay_share": 0.0, "table_decay": 0.01, "table_lr": 0.1}


def batches_of(training, count):
    tables = training.train.shuffled(
        seed=0, epoch=0, batch_rows=training.local_rows, block_rows=10_000
    )
    return [
        to_batch(table, training.catalog)
        for (table, _), _ in zip(tables, range(count), strict=False)
    ]


def stepped(training, batches):
    losses = []
    for batch in batches:
        losses.append(training.step(batch))
        training.state.step += 1
    return losses


def published_at(spec, work, training):
    """Publish the state as it stands; the base's folder."""
    training.write_best()
    if training.worker.rank == 0:
        found = training.measure() if training.worker.world == 1 else None
        publish(spec, work, training_result(best_tasks=found.tasks if found else ()))
    dist.barrier()
    return work.run_dir / "base"


def child_of(work, folder, name, training, **changes):
    run_dir = work.run_dir.with_name(f"{work.run_dir.name}-{name}")
    run_dir.mkdir(exist_ok=True)
    child = dataclasses.replace(work, run_dir=run_dir, from_base=folder, **changes)
    continued = Pretraining(child, worker=training.worker, report=silent)
    continued.state.step = K
    return continued


def ask(worker, spec, work):
    """Losses and weights of one run, of its continuation with the state, and of one without."""
    whole = Pretraining(work, worker=worker, report=silent)
    batches = batches_of(whole, K + MORE)
    stepped(whole, batches[:K])
    folder = published_at(spec, work, whole)
    continued = child_of(work, folder, "child", whole)
    at_start = [weights(t) for t in (whole, continued)]
    losses = [stepped(t, batches[K:]) for t in (whole, continued)]
    at_end = [weights(t) for t in (whole, continued)]
    dist.barrier()
    if worker.rank == 0:
        shutil.rmtree(folder / optimizer_state.FOLDER)
    dist.barrier()
    fresh = child_of(work, folder, "without", whole)
    losses.append(stepped(fresh, batches[K:]))
    return {
        "losses": losses, "start": at_start, "end": at_end, "told": fresh.state.loaded,
        "has_state": optimizer_state.has_state(bases.open_base(folder)),
        "told_with": continued.state.loaded,
    }  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    root = tmp_path_factory.mktemp("log") / "log"
    return write_log(root, rows=3_000, regions=("a",), skew=1.0, users=80)


def work_of(log, run_dir, **changes):
    spec = pretrain_spec(log, run_dir, **{"optim": CONSTANT, "batch_rows": 64} | changes)
    return spec, pretrain_work(spec, catalog())


@pytest.mark.parametrize("world", [1, 2])
def test_continued_with_its_state_is_uninterrupted(log, tmp_path, world):
    spec, work = work_of(log, tmp_path / "parent")
    for answer in run_on_workers(ask, world, spec, work):
        whole, continued, without = answer["losses"]
        assert len(whole) == MORE
        assert continued == pytest.approx(whole, rel=1e-6)
        for name, expected in answer["start"][0].items():
            assert torch.equal(answer["start"][1][name], expected), name
        for name, expected in answer["end"][0].items():
            assert torch.allclose(answer["end"][1][name], expected, rtol=1e-4, atol=1e-7), name
        assert answer["told_with"] == []
        assert without[0] == pytest.approx(whole[0], rel=1e-6), "the weights are the same"
        assert without[1:] != pytest.approx(whole[1:], rel=1e-3), "the next steps are not"
        assert "weights only" in answer["told"][0]
        assert not answer["has_state"]


def test_a_flipped_byte_of_the_state_is_refused_and_a_base_without_it_opens(log, tmp_path):
    spec, work = work_of(log, tmp_path / "parent")
    with process_group(0, 1, backend="gloo") as worker:
        whole = Pretraining(work, worker=worker, report=silent)
        stepped(whole, batches_of(whole, K))
        folder = published_at(spec, work, whole)
        opened = bases.open_base(folder)
        for entry in (opened.manifest.optimizer[0], opened.manifest.optimizer[-1]):
            path = folder / entry.path
            sound = path.read_bytes()
            path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
            with pytest.raises(Corrupt, match="sha256"):
                child_of(work, folder, "corrupt", whole)
            path.unlink()
            with pytest.raises(Corrupt, match="missing"):
                child_of(work, folder, "corrupt", whole)
            path.write_bytes(sound)
        shutil.rmtree(folder / optimizer_state.FOLDER)
        assert bases.open_base(folder).manifest.fingerprint == opened.manifest.fingerprint
        child = child_of(work, folder, "without", whole)
        assert child.measure().loss == pytest.approx(whole.measure().loss, rel=1e-6)


def test_rows_keep_their_memory_when_a_table_grows_and_new_ones_have_none(log, tmp_path):
    spec, work = work_of(log, tmp_path / "parent")
    with process_group(0, 1, backend="gloo") as worker:
        whole = Pretraining(work, worker=worker, report=silent)
        stepped(whole, batches_of(whole, K))
        folder = published_at(spec, work, whole)
        opened = bases.open_base(folder)
        (grown,) = (s for s in local_accumulators(whole.model) if s.table == "user_id")
        memory_R = grown.tensor_RW.flatten().clone()
        before = len(memory_R) - 7
        origin = RowOrigin(
            rows_before=before, of=lambda rows_R: np.where(rows_R < before, rows_R, 1)
        )
        sizes = {t.name: (t.rows, t.width) for t in opened.manifest.tables}
        entries = shortened(folder, opened, before)
        told = optimizer_state.read_state(
            whole.model,
            checkpoint.optimizer_tensors(whole.adam, whole.dense),
            folder,
            entries,
            worker,
            sizes_before=sizes | {"user_id": (before, sizes["user_id"][1])},
            growth=Growth(rows={"user_id": origin}),
        )
        assert torch.equal(grown.tensor_RW.flatten()[:before], memory_R[:before])
        assert memory_R[:before].count_nonzero() > 0
        assert not grown.tensor_RW[before:].any()
        assert told == ["table user_id: the momentum of its new rows starts anew"]


def shortened(folder, opened, rows):
    """The base's state, as if the users' table had had fewer rows."""
    from dataclasses import asdict

    from safetensors.torch import load_file

    from iak.pipeline.model.tables import LocalShard
    from iak.pipeline.sharding.rectangles import write_rectangles

    kept = [e.model_dump() for e in opened.manifest.optimizer if e.table != "user_id"]
    (entry,) = (e for e in opened.manifest.optimizer if e.table == "user_id")
    part = load_file(folder / entry.path)["weight"][:rows].clone()
    shard = LocalShard(table="user_id", row_offset=0, col_offset=0, tensor_RW=part)
    written = write_rectangles([shard], folder, folder=optimizer_state.ACCUMULATORS)
    return [*kept, *map(asdict, written)]


def test_moments_of_inputs_that_moved_go_with_them(log, tmp_path):
    spec, work = work_of(log, tmp_path / "parent")
    with process_group(0, 1, backend="gloo") as worker:
        whole = Pretraining(work, worker=worker, report=silent)
        stepped(whole, batches_of(whole, K))
        folder = published_at(spec, work, whole)
        opened = bases.open_base(folder)
        inputs = bases.inputs(work.view.catalog, work.encoding, width=work.model.width)
        adam = checkpoint.optimizer_tensors(whole.adam, whole.dense)
        name = "trunk.mlp.0.weight.exp_avg"
        before = adam[name].clone()
        told = optimizer_state.read_state(
            whole.model,
            adam,
            folder,
            [entry.model_dump() for entry in opened.manifest.optimizer],
            worker,
            growth=Growth(
                inputs=input_origin(inputs, [Input("new", inputs[0].width), *inputs[1:]])
            ),
        )
        width = inputs[0].width
        assert told == []
        assert torch.equal(adam[name][:, width:], before[:, width:])
        assert before[:, :width].any()
        assert not adam[name][:, :width].any()


@pytest.mark.parametrize("rates", [1.0, 1e-9])
def test_the_untouched_parent_is_the_first_candidate(log, tmp_path, rates):
    """A child that learns too fast is worse, one that hardly moves is no better or just better."""
    spec, work = work_of(log, tmp_path / "parent", epochs=6, patience=3)
    with process_group(0, 1, backend="gloo") as worker:
        result = pretrain(work, worker=worker, report=silent)
        publish(spec, work, result)
        asked = {"epochs": 1, "patience": 2, "from": tmp_path / "parent"}
        asked |= {"optim": CONSTANT | {"table_lr": 30.0 * rates, "dense_lr": 0.9 * rates}}
        _, child = work_of(log, tmp_path / "child", **asked)
        events = []
        found = pretrain(child, worker=worker, report=events.append)
    parent = next(e for e in events if e["event"] == "parent")
    assert found.parent_valid_loss == parent["valid_loss"]
    assert parent["valid_loss"] == pytest.approx(result.best_valid_loss, rel=1e-6)
    assert found.is_parent_best == (found.best_child_loss >= parent["valid_loss"])
    if rates == 1.0:
        assert found.is_parent_best
    assert (tmp_path / "child" / ".best").exists() != found.is_parent_best


def test_each_task_may_keep_its_own_tower(log, tmp_path):
    spec, work = work_of(log, tmp_path / "run", early_stop="per_task", epochs=2)
    with process_group(0, 1, backend="gloo") as worker:
        result = pretrain(work, worker=worker, report=silent)
        manifest = publish(spec, work, result)
        opened = bases.open_base(tmp_path / "run")
        again = Pretraining(
            dataclasses.replace(work, from_base=opened.folder, run_dir=Path(tmp_path / "again")),
            worker=worker,
            report=silent,
        )
        loss = again.measure().loss
    assert [line.task for line in result.towers] == ["ctr", "cvr"]
    for line in result.towers:
        assert line.loss <= line.loss_before
        assert (line.step == 0) == (line.loss == line.loss_before)
    assert loss == pytest.approx(result.best_valid_loss, rel=1e-6)
    assert manifest.optimizer
