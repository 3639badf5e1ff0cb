"""Two gloo workers against one plain model."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.errors import Corrupt
from iak.pipeline.model.digest import freeze
from iak.pipeline.model.loss import share_of_mean, task_losses
from iak.pipeline.process import Worker, process_group, run_on_workers
from iak.pipeline.sharding.base_weights import read_base_weights, write_base_weights
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.shard import (
    RowWiseAdagrad,
    dense_state,
    digest_model,
    local_shards,
    set_tables_lr,
    shard,
    table_modules,
    unwrap,
)
from iak.schemas.plan import PlacementRuleSpec
from tests.integration.workers import StayingWorkers
from tests.unit.model.small import SHAPES, TASKS, small_batch, small_model

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
ADAGRAD = RowWiseAdagrad(lr=0.1, eps=1e-6)
DECAYING = dataclasses.replace(ADAGRAD, penalty=0.2)
PLANS = {
    "mixed": {"user": "row_wise"},
    "rows": {"user": "row_wise", "hour": "row_wise", "shop": "row_wise"},
    "tables": {"user": "table_wise"},
    "columns": {"user": "row_wise", "shop": "column_wise"},
}
CUTS = {"halves": (0, 6, 12), "uneven": (0, 5, 12), "one empty": (0, 12, 12)}
RUNS = (  # plan, cut, whether weights decay
    ("mixed", "halves", False),
    ("mixed", "halves", True),
    ("rows", "uneven", False),
    ("tables", "one empty", False),
    ("rows", "one empty", False),
)
DENSE_LR = 0.1
STEPS = 4
LATE_LR = 0.01  # of the tables, from step 2 on


def sharded_model(worker, plan, optimizer=ADAGRAD, device="meta", **settings):
    made = plan_tables(
        SHAPES, world=worker.world, device=worker.device,
        rule=PlacementRuleSpec(sharding=PLANS[plan], row_wise_from_rows=1000),
    )  # fmt: skip
    return shard(small_model(device), made, worker=worker, tables_optimizer=optimizer, **settings)


def my_rows(worker, cut, seed):
    return small_batch(12, seed, CUTS[cut][worker.rank], CUTS[cut][worker.rank + 1])


def train(worker, model, cut):
    """A few steps on this worker's part of each batch."""
    optimizer = torch.optim.SGD(dense_state(model).values(), lr=DENSE_LR)
    for step in range(STEPS):
        if step == 2:
            set_tables_lr(model, LATE_LR)
        rows = my_rows(worker, cut, step)
        losses_BT = task_losses(
            model(rows.ids, rows.numeric_BN), rows.labels_BT, rows.mask_BT, TASKS
        )
        counts_T = small_batch(12, step).mask_BT.sum(dim=0)
        optimizer.zero_grad()
        share_of_mean(losses_BT, counts_T=counts_T, tasks=TASKS, world=worker.world).backward()
        optimizer.step()


def train_plain(penalty=0.0):
    """The same steps on one plain model, row-wise Adagrad and weight decay written out."""
    model = small_model()
    squares = [torch.zeros(shape.rows) for shape in SHAPES]
    for step in range(STEPS):
        rows = small_batch(12, step)
        losses_BT = task_losses(
            model(rows.ids, rows.numeric_BN), rows.labels_BT, rows.mask_BT, TASKS
        )
        model.zero_grad()
        loss = share_of_mean(losses_BT, counts_T=rows.mask_BT.sum(dim=0), tasks=TASKS)
        e_BE = torch.cat(model.embed(rows.ids, rows=12).means, dim=1)
        (loss + penalty / 2 * e_BE.square().sum(dim=1).mean()).backward()
        with torch.no_grad():
            for shape, square in zip(SHAPES, squares, strict=True):
                table = model.tables.embedding_bags[shape.name].weight
                touched = torch.cat([rows.ids[f].values() for f in shape.features]).unique()
                grad = table.grad[touched]
                square[touched] += grad.square().mean(dim=1)
                lr = ADAGRAD.lr if step < 2 else LATE_LR
                table[touched] -= lr * grad / (square[touched].sqrt() + ADAGRAD.eps)[:, None]
            for parameter in dense_state(model).values():
                parameter.sub_(DENSE_LR * parameter.grad)
    return weights(model)


def weights(model):
    shards = [dataclasses.replace(s, tensor_RW=s.tensor_RW.clone()) for s in local_shards(model)]
    return shards, {name: t.detach().clone() for name, t in dense_state(model).items()}


def gradient_traffic(worker, model):
    """How often a backward pass exchanges embedding gradients, by counting TorchRec's calls."""
    rows, calls = my_rows(worker, "halves", 0), []
    loss = model(rows.ids, rows.numeric_BN).sum()
    names = ("all_to_all_single", "all_gather_into_tensor")
    kept = {name: getattr(dist, name) for name in names}
    for name, call in kept.items():
        setattr(dist, name, lambda *a, _call=call, **k: [calls.append(1), _call(*a, **k)][1])
    try:
        loss.backward()
    finally:
        for name, call in kept.items():
            setattr(dist, name, call)
    return len(calls)


def ask_logits(worker):
    """First values and logits under every plan and cut."""
    start, logits = {}, {}
    for plan in PLANS:
        model = sharded_model(worker, plan, device="cpu" if plan == "rows" else "meta")
        start[plan] = digest_model(model, worker)
        for cut in CUTS:
            rows = my_rows(worker, cut, 7)
            logits[plan, cut] = model(rows.ids, rows.numeric_BN).detach()
    return start, logits


def ask_trained(worker):
    """Weights after a few steps of every run."""
    found = {}
    for plan, cut, decay in RUNS:
        model = sharded_model(worker, plan, optimizer=DECAYING if decay else ADAGRAD)
        train(worker, model, cut)
        found[plan, cut, decay] = weights(model)
    return found


def ask_written(worker, directory):
    """A trained model on disk, and how often its backward pass sent gradients of tables."""
    plan, cut, _ = RUNS[-1]
    model = sharded_model(worker, plan)
    train(worker, model, cut)
    return {
        "traffic": gradient_traffic(worker, model),
        "digest": digest_model(model, worker),
        "entries": write_base_weights(model, directory, worker, max_file_bytes=800),
    }


def ask_reread(worker, directory, entries):
    """The digest of what is read back, under every plan."""
    found = {}
    for plan in PLANS:
        model = sharded_model(worker, plan, optimizer=None, initialise=False)
        read_base_weights(model, directory, entries, worker)
        found[plan] = digest_model(model, worker)
    return found


def ask_frozen(worker, directory, entries):
    """Read the base back, frozen, and train its trunk."""
    model = sharded_model(worker, "columns", optimizer=None, initialise=False)
    read_base_weights(model, directory, entries, worker)
    traffic = gradient_traffic(worker, model)
    train(worker, model, "halves")
    states = [
        s for m in table_modules(model) for table in m.split_optimizer_states() for s in table
    ]
    freeze(model)
    rows = my_rows(worker, "halves", 0)
    represented = unwrap(model).represent(rows.ids, rows.numeric_BN)
    return {
        "after": digest_model(model, worker),
        "traffic": traffic,
        "optimiser states": sum(s.numel() for s in states),
        "needs no graph": not represented.h_BH.requires_grad,
    }


def ask_refusal(worker, directory, entries):
    """Break a file that only rank 1 reads; every rank must hear of it."""
    path = directory / "tables/user/r51-c0.safetensors"
    if worker.rank == 0:
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    dist.barrier()
    try:
        read_base_weights(sharded_model(worker, "mixed"), directory, entries, worker)
    except Corrupt as error:
        return str(error)
    finally:
        dist.barrier()
        if worker.rank == 0:
            path.write_bytes(good)
    return ""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def workers():
    with StayingWorkers(2) as staying:
        yield staying


@pytest.fixture(scope="module")
def untrained(workers):
    return workers.run(ask_logits)


@pytest.fixture(scope="module")
def trained(workers):
    return workers.run(ask_trained)


@pytest.fixture(scope="module")
def written(workers, base):
    return workers.run(ask_written, base)


@pytest.fixture(scope="module")
def entries(written):
    """The files of the base, which rank 0 knows."""
    return written[0]["entries"]


@pytest.fixture(scope="module")
def frozen(workers, base, entries):
    return workers.run(ask_frozen, base, entries)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("plan", PLANS)
def test_sharded_logits_are_those_of_the_whole_model(untrained, plan, cut):
    rows = small_batch(12, 7)
    whole_BT = small_model()(rows.ids, rows.numeric_BN)
    sharded_BT = torch.cat([logits[plan, cut] for _, logits in untrained])
    torch.testing.assert_close(sharded_BT, whole_BT, atol=1e-6, rtol=0)


def test_sharded_tables_start_as_the_whole_ones(untrained):
    whole = digest_model(small_model(), ALONE)
    for start, _ in untrained:
        assert start == dict.fromkeys(PLANS, whole)


@pytest.mark.parametrize("run", RUNS)
def test_two_workers_train_as_one_on_the_whole_batch(trained, run):
    plain_shards, plain_dense = train_plain(DECAYING.penalty if run[2] else 0.0)
    whole = {s.table: s.tensor_RW for s in plain_shards}
    for answers in trained:
        shards, dense = answers[run]
        for name, tensor in dense.items():
            torch.testing.assert_close(tensor, plain_dense[name], atol=2e-6, rtol=1e-5)
        for s in shards:
            rows, width = s.tensor_RW.shape
            part = whole[s.table][s.row_offset :, s.col_offset :][:rows, :width]
            torch.testing.assert_close(s.tensor_RW, part, atol=2e-6, rtol=1e-5)


def test_frozen_tables_stay_frozen_while_the_trunk_trains(written, frozen):
    for mine, answers in zip(written, frozen, strict=True):
        before, after = mine["digest"], answers["after"]
        tables = {shape.name for shape in SHAPES}
        changed = {n for n in before.by_name if before.by_name[n] != after.by_name[n]}
        assert not changed & tables
        assert changed == set(before.by_name) - tables
        assert answers["needs no graph"]


def test_frozen_tables_have_no_optimiser_state_and_no_gradient_traffic(written, frozen):
    assert all(answers["traffic"] > 0 for answers in written)
    assert all(answers["traffic"] == answers["optimiser states"] == 0 for answers in frozen)


def test_any_plan_reads_what_any_plan_wrote(workers, base, written, entries):
    for mine, reread in zip(written, workers.run(ask_reread, base, entries), strict=True):
        assert reread == dict.fromkeys(PLANS, mine["digest"])


def test_one_worker_reads_what_two_wrote(written, entries, base):
    model = small_model(seed=5)
    read_base_weights(model, base, entries, ALONE)
    assert digest_model(model, ALONE) == written[0]["digest"]


def test_a_broken_file_is_refused_on_every_rank(workers, base, entries):
    for refused in workers.run(ask_refusal, base, entries):
        assert "r51-c0.safetensors is not the file that was published" in refused


def test_only_rank_0_holds_the_entries(written):
    assert written[0]["entries"]
    assert written[1]["entries"] == []


def ask_alone(worker: Worker, base: Path, entries):
    model = sharded_model(worker, "rows", initialise=False)
    read_base_weights(model, base, entries, worker)
    read = digest_model(model, worker)
    train(worker, sharded_model(worker, "mixed"), "one empty")
    if worker.rank == 0:
        raise Corrupt("as asked")
    return read


def test_an_error_of_a_worker_is_raised_here_with_its_story(entries, base):
    with pytest.raises(Corrupt, match="as asked") as caught:
        run_on_workers(ask_alone, 1, base, entries)
    assert "in ask_alone" in caught.value.__notes__[0]


def test_a_world_of_one_needs_no_meeting_point():
    with process_group(0, 1, backend="gloo") as worker:
        assert (worker.rank, worker.world) == (0, 1)
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
