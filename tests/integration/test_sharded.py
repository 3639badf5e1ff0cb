"""Two gloo workers against one plain model. One spawn answers many questions: see `ask`."""

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
        e_BE = torch.cat(model.embed(rows.ids, rows=12), dim=1)
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


def ask(worker, directory):
    """Everything the tests below look at, gathered by one pair of workers."""
    answers = {"logits": {}, "trained": {}, "start": {}, "reread": {}}
    for plan in PLANS:
        model = sharded_model(worker, plan, device="cpu" if plan == "rows" else "meta")
        answers["start"][plan] = digest_model(model, worker)
        for cut in CUTS:
            rows = my_rows(worker, cut, 7)
            answers["logits"][plan, cut] = model(rows.ids, rows.numeric_BN).detach()
    for plan, cut, decay in RUNS:
        model = sharded_model(worker, plan, optimizer=DECAYING if decay else ADAGRAD)
        train(worker, model, cut)
        answers["trained"][plan, cut, decay] = weights(model)
    answers["traffic, trained"] = gradient_traffic(worker, model)
    answers["digest"] = digest_model(model, worker)
    answers["entries"] = write_base_weights(model, directory, worker, max_file_bytes=800)
    answers |= ask_frozen(worker, directory, answers)
    answers["refused"] = ask_refusal(worker, directory, answers)
    return answers


def ask_frozen(worker, directory, answers):
    """Read the base back under other plans, frozen, and train its trunk."""
    (entries, _) = share(worker, answers["entries"])
    for plan in PLANS:
        model = sharded_model(worker, plan, optimizer=None, initialise=False)
        read_base_weights(model, directory, entries, worker)
        answers["reread"][plan] = digest_model(model, worker)
    traffic = gradient_traffic(worker, model)
    train(worker, model, "halves")
    states = [
        s for m in table_modules(model) for table in m.split_optimizer_states() for s in table
    ]
    freeze(model)
    rows = my_rows(worker, "halves", 0)
    represented = unwrap(model).represent(rows.ids, rows.numeric_BN)
    return {
        "all entries": entries,
        "after": digest_model(model, worker),
        "traffic, frozen": traffic,
        "optimiser states": sum(s.numel() for s in states),
        "needs no graph": not represented.h_BH.requires_grad,
    }


def ask_refusal(worker, directory, answers):
    """Break a file that only rank 1 reads; every rank must hear of it."""
    path = directory / "tables/user/r51-c0.safetensors"
    if worker.rank == 0:
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    dist.barrier()
    try:
        read_base_weights(sharded_model(worker, "mixed"), directory, answers["all entries"], worker)
    except Corrupt as error:
        return str(error)
    finally:
        dist.barrier()
        if worker.rank == 0:
            path.write_bytes(good)
    return ""


def share(worker, entries):
    gathered = [None] * worker.world
    dist.all_gather_object(gathered, entries)
    return gathered


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def two(base):
    return run_on_workers(ask, 2, base)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("plan", PLANS)
def test_sharded_logits_are_those_of_the_whole_model(two, plan, cut):
    rows = small_batch(12, 7)
    whole_BT = small_model()(rows.ids, rows.numeric_BN)
    sharded_BT = torch.cat([answers["logits"][plan, cut] for answers in two])
    torch.testing.assert_close(sharded_BT, whole_BT, atol=1e-6, rtol=0)


def test_sharded_tables_start_as_the_whole_ones(two):
    whole = digest_model(small_model(), ALONE)
    for answers in two:
        assert answers["start"] == dict.fromkeys(PLANS, whole)


@pytest.mark.parametrize("run", RUNS)
def test_two_workers_train_as_one_on_the_whole_batch(two, run):
    plain_shards, plain_dense = train_plain(DECAYING.penalty if run[2] else 0.0)
    whole = {s.table: s.tensor_RW for s in plain_shards}
    for answers in two:
        shards, dense = answers["trained"][run]
        for name, tensor in dense.items():
            torch.testing.assert_close(tensor, plain_dense[name], atol=2e-6, rtol=1e-5)
        for s in shards:
            rows, width = s.tensor_RW.shape
            part = whole[s.table][s.row_offset :, s.col_offset :][:rows, :width]
            torch.testing.assert_close(s.tensor_RW, part, atol=2e-6, rtol=1e-5)


def test_frozen_tables_stay_frozen_while_the_trunk_trains(two):
    for answers in two:
        before, after = answers["digest"], answers["after"]
        tables = {shape.name for shape in SHAPES}
        changed = {n for n in before.by_name if before.by_name[n] != after.by_name[n]}
        assert not changed & tables
        assert changed == set(before.by_name) - tables
        assert answers["needs no graph"]


def test_frozen_tables_have_no_optimiser_state_and_no_gradient_traffic(two):
    for answers in two:
        assert answers["traffic, trained"] > 0
        assert answers["traffic, frozen"] == 0
        assert answers["optimiser states"] == 0


def test_any_plan_reads_what_any_plan_wrote(two):
    for answers in two:
        assert answers["reread"] == dict.fromkeys(PLANS, answers["digest"])


def test_one_worker_reads_what_two_wrote(two, base):
    model = small_model(seed=5)
    read_base_weights(model, base, two[0]["entries"], ALONE)
    assert digest_model(model, ALONE) == two[0]["digest"]


def test_a_broken_file_is_refused_on_every_rank(two):
    for answers in two:
        assert "r51-c0.safetensors is not the file that was published" in answers["refused"]


def test_only_rank_0_holds_the_entries(two):
    assert two[0]["entries"]
    assert two[1]["entries"] == []


def ask_alone(worker: Worker, base: Path, entries):
    model = sharded_model(worker, "rows", initialise=False)
    read_base_weights(model, base, entries, worker)
    read = digest_model(model, worker)
    train(worker, sharded_model(worker, "mixed"), "one empty")
    if worker.rank == 0:
        raise Corrupt("as asked")
    return read


def test_an_error_of_a_worker_is_raised_here_with_its_story(two, base):
    with pytest.raises(Corrupt, match="as asked") as caught:
        run_on_workers(ask_alone, 1, base, two[0]["entries"])
    assert "in ask_alone" in caught.value.__notes__[0]


def test_a_world_of_one_needs_no_meeting_point():
    with process_group(0, 1, backend="gloo") as worker:
        assert (worker.rank, worker.world) == (0, 1)
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
