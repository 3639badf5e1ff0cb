"""Histories on two gloo workers against one worker, trained and frozen."""

import pytest
import torch

from iak.pipeline.model.loss import share_of_mean, task_losses
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.sharding.base_weights import read_frozen_base, write_base_weights
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.shard import RowWiseAdagrad, dense_state, digest_model, shard
from iak.schemas.plan import PlacementRuleSpec
from tests.unit.model.small import READERS, SHAPES, TASKS, history_model, small_batch

pytestmark = pytest.mark.slow

ROWS, STEPS, HELD_OUT = 12, 4, 99
ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
PLANS = {
    "rows": {"user": "row_wise", "hour": "row_wise", "shop": "row_wise"},
    "tables": {"user": "table_wise"},
    "columns": {"user": "column_wise"},
}
TRAINED = ("rows", "tables")
"""Row-wise Adagrad has an accumulator for each band of columns, and so trains these otherwise."""
PRECISIONS = ("fp32", "int8")


def plan_of(worker, plan):
    rule = PlacementRuleSpec(sharding=PLANS[plan], row_wise_from_rows=1000)
    return plan_tables(SHAPES, world=worker.world, device=worker.device, rule=rule)


def my_rows(worker, seed):
    """Five rows for the first of two workers, and seven for the second."""
    first, last = {1: [(0, ROWS)], 2: [(0, 5), (5, ROWS)]}[worker.world][worker.rank]
    return small_batch(ROWS, seed, first, last)


def logits_of(worker, model):
    rows = my_rows(worker, HELD_OUT)
    return model(rows.ids, rows.numeric_BN).detach()


def trained(worker):
    """Logits of held-out rows and dense weights after some steps."""
    found = {}
    for kind in READERS:
        for plan in TRAINED:
            made = plan_of(worker, plan)
            adagrad = RowWiseAdagrad(lr=0.3, eps=1e-6)
            model = shard(
                history_model(kind, "meta"), made, worker=worker, tables_optimizer=adagrad
            )
            optimizer = torch.optim.SGD(dense_state(model).values(), lr=0.3)
            for step in range(STEPS):
                rows = my_rows(worker, step)
                losses_BT = task_losses(
                    model(rows.ids, rows.numeric_BN), rows.labels_BT, rows.mask_BT, TASKS
                )
                counts_T = small_batch(ROWS, step).mask_BT.sum(dim=0)
                optimizer.zero_grad()
                share_of_mean(
                    losses_BT, counts_T=counts_T, tasks=TASKS, world=worker.world
                ).backward()
                optimizer.step()
            dense = {name: t.detach().clone() for name, t in dense_state(model).items()}
            found[kind, plan] = logits_of(worker, model), dense
    return found


def frozen(worker, directory, entries):
    """Logits of a frozen base, and its digest before and after."""
    found = {}
    for kind in READERS:
        for plan in PLANS:
            for precision in PRECISIONS:
                model = read_frozen_base(
                    history_model(kind, "meta"), plan_of(worker, plan),
                    precisions={shape.name: precision for shape in SHAPES},
                    directory=directory / kind, entries=entries[kind], worker=worker,
                )  # fmt: skip
                before = digest_model(model, worker)
                logits_BT = logits_of(worker, model)
                found[kind, plan, precision] = logits_BT, before, digest_model(model, worker)
    return found


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bases")
    entries = {
        kind: write_base_weights(history_model(kind), directory / kind, ALONE) for kind in READERS
    }
    return directory, entries


def test_two_workers_train_what_one_does():
    (alone,), both = run_on_workers(trained, 1), run_on_workers(trained, 2)
    for (kind, plan), (logits_BT, dense) in alone.items():
        found_BT = torch.cat([rank[kind, plan][0] for rank in both])
        torch.testing.assert_close(found_BT, logits_BT, atol=1e-5, rtol=1e-4)
        assert any(name.startswith("histories.") for name in dense)
        for rank in both:
            torch.testing.assert_close(rank[kind, plan][1], dense, atol=1e-5, rtol=1e-4)


def test_frozen_tables_answer_the_same_under_every_plan_and_stay_as_they_are(bases):
    (alone,) = run_on_workers(frozen, 1, *bases)
    both = run_on_workers(frozen, 2, *bases)
    for key, (logits_BT, before, after) in alone.items():
        kind, plan, precision = key
        found_BT = torch.cat([rank[key][0] for rank in both])
        torch.testing.assert_close(found_BT, logits_BT, atol=1e-5, rtol=1e-5)
        assert before == after == both[0][key][1] == both[1][key][2]
        if precision == "fp32":
            rows = small_batch(ROWS, HELD_OUT)
            expected_BT = history_model(kind)(rows.ids, rows.numeric_BN).detach()
            torch.testing.assert_close(logits_BT, expected_BT, atol=1e-5, rtol=1e-5, msg=plan)
