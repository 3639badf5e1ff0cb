"""What a step sends and holds is counted as it is."""

import pytest
import torch
from torch import distributed as dist

from iak.pipeline.bench.counters import Wire, cost_of, moved
from iak.pipeline.process import process_group

TEN = torch.zeros(10)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        pytest.param("allreduce", ([TEN],), (60, 60), id="twice what is not one's own"),
        pytest.param("reduce_scatter_base", (TEN[:2], TEN), (30, 30), id="the parts of others"),
        pytest.param("allgather_base", (TEN, TEN[:2]), (30, 30), id="one's own to all others"),
        pytest.param("broadcast", ([TEN],), (30, 30), id="averaged over ranks"),
        pytest.param(
            "alltoall_base",
            (torch.zeros(6), torch.zeros(8), None, [3, 1, 1, 1], [1, 3, 2, 2]),
            (4 * 5, 4 * 5),
            id="unequal parts",
        ),
        pytest.param("alltoall_base", (TEN, TEN, None, [], []), (30, 30), id="equal parts"),
        pytest.param(
            "alltoall",
            ([TEN[:1], TEN[:2], TEN[:3], TEN[:4]], [TEN[:4], TEN[:3], TEN[:2], TEN[:1]]),
            (4 * 7, 4 * 8),
            id="lists",
        ),
        pytest.param("barrier", (), (0, 0), id="nothing"),
    ],
)
def test_bytes_are_those_that_leave_and_reach_a_rank(name, args, expected):
    assert moved(name, args, rank=1, world=4) == pytest.approx(expected)


def test_rows_of_a_matrix_count_whole():
    matrix = torch.zeros(6, 5)
    args = (matrix, matrix, None, [4, 2], [2, 4])
    assert moved("alltoall_base", args, rank=0, world=2) == (4 * 20, 4 * 10)


def test_a_collective_nobody_has_met_is_not_passed_over():
    with pytest.raises(NotImplementedError, match=r"c10d::gather.*add it"):
        moved("gather", ([TEN],), rank=0, world=2)


def test_what_is_sent_in_a_backward_pass_is_seen():
    class Sent(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, grad):
            dist.all_reduce(grad)
            return grad

    x = torch.ones(8, requires_grad=True)
    with process_group(0, 1, backend="gloo"), Wire() as wire:
        Sent.apply(x).sum().backward()
    assert wire.calls == {"allreduce": 1}


def test_a_steps_peak_is_what_it_held_at_once():
    held = []

    def step():
        held.clear()
        big = torch.zeros(1 << 20)
        del big
        held.append(torch.zeros(1 << 18))

    cost = cost_of(step)
    assert 4 << 20 <= cost.peak_bytes < 5 << 20
    assert (cost.sent_bytes, cost.received_bytes, dict(cost.collectives)) == (0, 0, {})
    assert 0 < sum(share for _, share in cost.top) <= 1.01
