import warnings

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import TableShape, UniformStart
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.process import process_group
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.shard import RowWiseAdagrad, local_shards, shard
from iak.schemas.plan import PlacementRuleSpec

LR, DECAY, WIDTH = 0.1, 0.01, 4
SHAPES = (
    TableShape(name="lone", rows=10, width=WIDTH, features=("lone",)),
    TableShape(name="shared", rows=10, width=WIDTH, features=("one", "two")),
)
IDS = KeyedJaggedTensor(
    keys=["lone", "one", "two"],
    values=torch.tensor([1, 2, 3, 4, 5]),
    lengths=torch.tensor([1, 1, 1, 1, 1, 0]),
)
TOUCHED = {"lone": [1, 2], "shared": [3, 4, 5]}


def after_a_step_without_loss(*, with_twins):
    """Tables after one step whose loss has no gradient: only decay can move them."""
    with process_group(0, 1, backend="gloo") as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = torch.device("meta")
        tables = build_tables(SHAPES, init_scale=0.1, device=meta, with_twins=with_twins)
        model = Recommender(
            tables=tables,
            features=("lone", "one", "two"),
            num_numeric=0,
            trunk=DcnMmoe(width=3 * WIDTH, cross_layers=1, experts=1, expert_width=4, tasks=1),
            heads=Heads(tasks=1, width=4, hidden=4),
        )
        rule = PlacementRuleSpec(row_wise_from_rows=5)
        plan = plan_tables(SHAPES, world=1, device=worker.device, rule=rule)
        adagrad = RowWiseAdagrad(lr=LR, weight_decay=DECAY)
        sharded = shard(model, plan, worker=worker, tables_optimizer=adagrad)
        (0.0 * sharded(IDS, torch.zeros(2, 0)).sum()).backward()
        return {s.table: s.tensor_RW.clone() for s in local_shards(sharded)}


@pytest.mark.parametrize("table", ["lone", "shared"])
def test_decay_pulls_the_rows_a_batch_touches_and_no_others(table):
    start_RW = UniformStart(table=table, seed=0, scale=0.1)(torch.empty(10, WIDTH))
    moved_RW = after_a_step_without_loss(with_twins=True)[table]
    rms_R = start_RW.square().mean(dim=1, keepdim=True).sqrt()
    expected_RW = start_RW.clone()
    rows = TOUCHED[table]
    expected_RW[rows] = (start_RW - LR * start_RW / rms_R)[rows]
    torch.testing.assert_close(moved_RW, expected_RW, rtol=1e-4, atol=1e-6)


def test_without_twins_fbgemm_drops_the_decay_of_a_lone_readers_table():
    """The bug that twins are for; when this fails, fbgemm has fixed it and twins can go."""
    start_RW = UniformStart(table="lone", seed=0, scale=0.1)(torch.empty(10, WIDTH))
    assert torch.equal(after_a_step_without_loss(with_twins=False)["lone"], start_RW)
