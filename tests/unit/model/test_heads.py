"""Towers: one per task, and a start at each task's rate."""

import pytest
import torch

from iak.pipeline.model.heads import Heads


def test_heads_are_one_tower_per_task():
    heads, h_BH = Heads(tasks=2, width=3, hidden=4), torch.randn(5, 6)
    logits_BT = heads(h_BH)
    for t in range(2):
        hidden_BD = (h_BH[:, 3 * t : 3 * t + 3] @ heads.w1_TWD[t] + heads.b1_TD[t]).relu()
        torch.testing.assert_close(logits_BT[:, t], hidden_BD @ heads.w2_TD[t] + heads.b2_T[t])


def test_a_tower_starts_near_its_rate_whatever_h_is():
    heads = Heads(tasks=2, width=3, hidden=4)
    heads.start_at([0.01, 0.5])
    assert heads.b2_T.sigmoid().tolist() == pytest.approx([0.01, 0.5], rel=1e-6)
    with torch.no_grad():
        heads.w2_TD.zero_()
    p_BT = heads(torch.randn(7, 6)).sigmoid()
    torch.testing.assert_close(p_BT, torch.tensor([[0.01, 0.5]]).expand(7, 2))


def test_first_weights_lie_where_a_linear_layer_draws_them():
    torch.manual_seed(0)
    heads = Heads(tasks=50, width=16, hidden=25)
    assert 0.9 / 4 < heads.w1_TWD.abs().max() <= 1 / 4
    assert 0.9 / 5 < heads.w2_TD.abs().max() <= 1 / 5


def test_no_task_reads_anothers_units():
    heads, h_BH = Heads(tasks=2, width=3, hidden=4), torch.randn(5, 6, requires_grad=True)
    heads(h_BH)[:, 1].sum().backward()
    assert not h_BH.grad[:, :3].any()
    assert h_BH.grad[:, 3:].any()


@pytest.mark.parametrize(
    ("tasks", "width", "hidden"), [(1, 128, 32), (2, 4, 3), (2, 128, 32), (3, 5, 16)]
)
def test_without_autograd_a_row_s_logits_are_rounded_alike_among_any_rows(tasks, width, hidden):
    heads, h_BH = Heads(tasks=tasks, width=width, hidden=hidden), torch.randn(600, tasks * width)
    trained_BT = heads(h_BH)
    with torch.no_grad():
        together_BT = heads(h_BH)
        torch.testing.assert_close(together_BT, trained_BT)
        for first, count in ((0, 32), (5, 32), (90, 96), (333, 256)):
            some = slice(first, first + count)
            assert torch.equal(heads(h_BH[some].clone()), together_BT[some])
