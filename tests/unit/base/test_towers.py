import copy

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base.towers import Best, copy_tower, losses_of_towers
from iak.pipeline.data.batch import Batch
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import TaskShape, task_losses

TASKS = (
    TaskShape(name="ctr", kind="click"),
    TaskShape(name="cvr", kind="conversion", given=0, entire="ctcvr"),
    TaskShape(name="like", kind="binary"),
)


@pytest.fixture
def towers():
    torch.manual_seed(0)
    heads = Heads(tasks=3, width=4, hidden=5)
    h_BH = torch.randn(6, 12)
    labels_BT = (torch.rand(6, 3) < 0.5).float()
    batch = Batch(
        ids=KeyedJaggedTensor.empty(),
        numeric_BN=torch.zeros(6, 0),
        labels_BT=labels_BT,
        mask_BT=torch.ones(6, 3) > 0,
    )
    return heads, h_BH, batch


def test_towers_that_have_not_moved_lose_what_the_base_loses(towers):
    heads, h_BH, batch = towers
    found = losses_of_towers(heads, copy.deepcopy(heads), h_BH, batch, TASKS)
    expected = task_losses(heads(h_BH), batch.labels_BT, batch.mask_BT, TASKS)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("task", range(3))
def test_no_tower_moves_another_tasks_loss(towers, task):
    heads, h_BH, batch = towers
    moved = copy.deepcopy(heads)
    losses_of_towers(moved, heads, h_BH, batch, TASKS)[:, task].sum().backward()
    for other in range(3):
        is_own = other == task
        assert bool(moved.w1_TWD.grad[other].abs().sum() > 0) == is_own
        assert bool(moved.b2_T.grad[other].abs() > 0) == is_own


def test_each_task_keeps_the_tower_of_its_own_best_validation(towers):
    heads, _, _ = towers
    start_T = torch.tensor([1.0, 1.0, 1.0])
    best = Best(copy.deepcopy(heads), start_T.clone(), start_T, torch.zeros(3), [0, 0, 0])
    history = ([0.9, 1.1, 1.1], [0.95, 0.8, 1.2], [0.5, 0.9, 0.1])
    given, goes_on = [], []
    for step, losses in enumerate(history, start=1):
        with torch.no_grad():
            heads.b2_T.fill_(float(step))
        given.append(copy.deepcopy(heads))
        goes_on.append(best.judge(heads, torch.tensor(losses), step, patience=2))
    assert best.steps_T == [3, 2, 0], "the last task's patience was spent before step 3"
    assert best.losses_T.tolist() == pytest.approx([0.5, 0.8, 1.0])
    assert best.heads.b2_T.tolist()[:2] == [3.0, 2.0]
    assert goes_on == [True, True, True]


def test_a_tower_is_copied_alone(towers):
    heads, _, _ = towers
    target = Heads(tasks=3, width=4, hidden=5)
    before = copy.deepcopy(target)
    copy_tower(heads, target, 1)
    assert torch.equal(target.w1_TWD[1], heads.w1_TWD[1])
    assert torch.equal(target.w1_TWD[0], before.w1_TWD[0])
    assert torch.equal(target.b2_T[2], before.b2_T[2])
