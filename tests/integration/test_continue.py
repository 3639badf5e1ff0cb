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
        result = training.measure() if training.worker.world == 1 else None
        publish(spec, work, training_result(best_tasks=result.tasks if result else ()))
    dist.barrier()
    return work.run_dir / "base"


def child_of(work, folder, name, training, **changes):
    run_dir = work.run_dir.with_name(f"{work.run_dir.name}-{name}")
    run_dir.mkdir(exist_ok=True)
    child = dataclasses.replace(work, run_dir=run_dir, from_base=folder, **changes)
    continued = Pretraining(child, worker=training.worker, report=silent)
    continued.state.step = K
    return continued


@dataclasses.dataclass(frozen=True)
class Steps:
    """A run from step K on."""

    start: dict[str, torch.Tensor]
    losses: list[float]
    end: dict[str, torch.Tensor]
    loaded: list[str]
    """What it reported of its load."""

    @classmethod
    def of(cls, training, batches):
        start = weights(training)
        return cls(start, stepped(training, batches), weights(training), training.state.loaded)


def three_runs(worker, spec, work):
    """One run that never stops, one continued with its state, and one without that state."""
    whole = Pretraining(work, worker=worker, report=silent)
    batches = batches_of(whole, K + MORE)
    stepped(whole, batches[:K])
    folder = published_at(spec, work, whole)
    continued = child_of(work, folder, "child", whole)
    runs = {"whole": Steps.of(whole, batches[K:]), "continued": Steps.of(continued, batches[K:])}
    dist.barrier()
    if worker.rank == 0:
        shutil.rmtree(folder / bases.OPTIMIZER)
    dist.barrier()
    assert not bases.open_base(folder).has_optimizer
    without = child_of(work, folder, "without", whole)
    return runs | {"without": Steps.of(without, batches[K:])}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    root = tmp_path_factory.mktemp("log") / "log"
    return write_log(root, rows=3_000, regions=("a",), skew=1.0, users=80)


def work_of(log, run_dir, **changes):
    spec = pretrain_spec(log, run_dir, **{"optim": CONSTANT, "batch_rows": 64} | changes)
    return spec, pretrain_work(spec, catalog())


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def runs(request, log, tmp_path_factory):
    """The three runs of each worker, by name."""
    spec, work = work_of(log, tmp_path_factory.mktemp("continue") / "parent")
    return run_on_workers(three_runs, request.param, spec, work)


def test_a_continued_run_starts_with_the_weights_and_the_state_of_its_parent(runs):
    for run in runs:
        for name, expected in run["whole"].start.items():
            assert torch.equal(run["continued"].start[name], expected), name
        assert run["continued"].loaded == []


def test_a_continued_run_takes_the_steps_of_one_that_never_stopped(runs):
    for run in runs:
        whole, continued = run["whole"], run["continued"]
        assert len(whole.losses) == MORE
        assert continued.losses == pytest.approx(whole.losses, rel=1e-6)
        for name, expected in whole.end.items():
            assert torch.allclose(continued.end[name], expected, rtol=1e-4, atol=1e-7), name


def test_without_its_state_a_run_has_the_weights_alone_and_says_so(runs):
    for run in runs:
        whole, without = run["whole"], run["without"]
        assert without.losses[0] == pytest.approx(whole.losses[0], rel=1e-6)
        assert without.losses[1:] != pytest.approx(whole.losses[1:], rel=1e-3)
        assert "weights only" in without.loaded[0]


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
        shutil.rmtree(folder / bases.OPTIMIZER)
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
        loaded = optimizer_state.read_state(
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
        assert loaded == ["table user_id: the Adagrad state of its new rows starts at zero"]


def shortened(folder, opened, rows):
    """The base's state, as if the users' table had had fewer rows."""
    from safetensors.torch import load_file

    from iak.pipeline.model.tables import LocalShard
    from iak.pipeline.sharding.rectangles import entries_of, write_rectangles

    others = entries_of(e for e in opened.manifest.optimizer if e.table != "user_id")
    (entry,) = (e for e in opened.manifest.optimizer if e.table == "user_id")
    part = load_file(folder / entry.path)["weight"][:rows].clone()
    shard = LocalShard(table="user_id", row_offset=0, col_offset=0, tensor_RW=part)
    written = write_rectangles([shard], folder, folder=optimizer_state.ACCUMULATORS)
    return [*others, *written]


def test_moments_of_inputs_that_moved_go_with_them(log, tmp_path):
    spec, work = work_of(log, tmp_path / "parent")
    with process_group(0, 1, backend="gloo") as worker:
        whole = Pretraining(work, worker=worker, report=silent)
        stepped(whole, batches_of(whole, K))
        folder = published_at(spec, work, whole)
        opened = bases.open_base(folder)
        inputs = bases.inputs(work.view.catalog, width=work.model.width)
        adam = checkpoint.optimizer_tensors(whole.adam, whole.dense)
        name = "trunk.mlp.0.weight.exp_avg"
        before = adam[name].clone()
        loaded = optimizer_state.read_state(
            whole.model,
            adam,
            folder,
            bases.optimizer_files_of(opened),
            worker,
            growth=Growth(
                inputs=input_origin(inputs, [Input("new", inputs[0].width), *inputs[1:]])
            ),
        )
        width = inputs[0].width
        assert loaded == []
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
        continued = pretrain(child, worker=worker, report=events.append)
    parent = next(e for e in events if e["event"] == "parent")
    assert continued.parent_valid_loss == parent["valid_loss"]
    assert parent["valid_loss"] == pytest.approx(result.best_valid_loss, rel=1e-6)
    assert continued.is_parent_best == (continued.best_child_loss >= parent["valid_loss"])
    if rates == 1.0:
        assert continued.is_parent_best
    assert (tmp_path / "child" / ".best").exists() != continued.is_parent_best


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
