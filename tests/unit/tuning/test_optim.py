"""Adam over a bank: as torch's own, slot by slot, with a rate that falls at the end."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.tuning.optim import BankAdam, rate_shares
from tests.unit.iak.small import normal


@given(
    steps=st.lists(st.lists(st.integers(0, 2), unique=True), min_size=1, max_size=12),
    seed=st.integers(0, 999),
)
def test_adam_over_a_bank_is_torchs_adam_a_slot(steps, seed):
    flat_KN = normal(3, 4, seed=seed)
    leaves = [row.clone().requires_grad_() for row in flat_KN]
    alone = [torch.optim.Adam([leaf], lr=0.03) for leaf in leaves]
    bank = BankAdam(flat_KN, lr=0.03)
    for number, slots in enumerate(steps):
        gradients = normal(len(slots), 4, seed=number)
        bank.step(slots, gradients)
        for slot, gradient in zip(slots, gradients, strict=True):
            leaves[slot].grad = gradient
            alone[slot].step()
    torch.testing.assert_close(flat_KN, torch.stack(leaves).detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("done", "left"), [(0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (1.0, 0.0), (1.5, 0.0)]
)
def test_a_rate_falls_to_zero_over_the_last_share_of_the_steps(done, left):
    all_P = torch.tensor([10, 4, 200])
    assert rate_shares(done * all_P, all_P, decay_share=0.5) == pytest.approx([left] * 3)
    assert rate_shares(done * all_P, all_P, decay_share=0.0) == [1.0] * 3


def test_slots_with_other_rates_move_as_they_would_alone():
    flat_KN, gradients = normal(3, 4), normal(3, 4, seed=1)
    together, alone = flat_KN.clone(), flat_KN.clone()
    BankAdam(together, lr=0.03).step([0, 1, 2], gradients, [1.0, 0.5, 0.0])
    for slot, share in enumerate([1.0, 0.5, 0.0]):
        BankAdam(alone[slot : slot + 1], lr=0.03 * share).step([0], gradients[slot : slot + 1])
    torch.testing.assert_close(together, alone, atol=0, rtol=0)
    assert torch.equal(together[2], flat_KN[2])
