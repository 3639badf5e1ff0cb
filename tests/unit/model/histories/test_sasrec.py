"""Self-attention against numbers that were worked by hand, and its causality."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model.histories.histories import History
from iak.pipeline.model.histories.sasrec import Block, SelfAttention


def set_to(parameter, value):
    parameter.data.copy_(torch.tensor(value))


@pytest.mark.parametrize("padding", [0, 1])
def test_one_block_by_hand(padding):
    """Values (3, 1) and (1, 3), the last position (0, 2), target (2, 3).

    Normalised: (1, -1) and, of (1, 5), (-1, 1). Queries are log(3) / sqrt(8) of that, so that the
    scores are -log(3) / 2 and log(3) / 2, and the weights 1/4 and 3/4. What is read is four times
    the normalised values: (4 - 12, -4 + 12) / 4 = (-2, 2). With the residual: (-1, 7).

    That is (-1, 1) when it is normalised, (0, 1) after ReLU, (1, 5) after 5 x + (1, 0). With the
    residual: (0, 12). Its products with the target: (0, 36).
    """
    reader = SelfAttention(width=2, positions=2 + padding, blocks=1)
    (block,) = reader.blocks
    set_to(reader.position_LK[-1], [0.0, 2.0])
    for layer, scale in (
        (block.query, math.log(3) / math.sqrt(8)),
        (block.key, 1.0),
        (block.value, 4.0),
        (block.feed[0], 1.0),
        (block.feed[2], 5.0),
    ):
        layer.weight.data.copy_(scale * torch.eye(2))
    set_to(block.feed[0].bias, [0.0, 0.0])
    set_to(block.feed[2].bias, [1.0, 0.0])
    history = History(
        torch.tensor([[[0.0, 0.0]] * padding + [[3.0, 1.0], [1.0, 3.0]]]),
        torch.tensor([[False] * padding + [True, True]]),
        torch.tensor([[2.0, 3.0]]),
    )
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            expected = torch.tensor([[0.0, 12.0, 0.0, 36.0]])
            torch.testing.assert_close(reader(history), expected, atol=1e-3, rtol=0)


@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 99))
def test_a_state_depends_on_no_later_value_and_on_no_padding(later, padding, seed):
    torch.manual_seed(seed)
    block, f_BLK = Block(4), torch.randn(3, 6, 4)
    is_value_BL = (torch.arange(6) >= padding).expand(3, 6)
    before = block(f_BLK, is_value_BL)
    changed_BLK = f_BLK.clone()
    changed_BLK[:, later:] += 1
    torch.testing.assert_close(block(changed_BLK, is_value_BL)[:, :later], before[:, :later])
    changed_BLK = f_BLK.clone()
    changed_BLK[:, :padding] += 1
    torch.testing.assert_close(block(changed_BLK, is_value_BL)[:, padding:], before[:, padding:])
    last = block(f_BLK, is_value_BL, queries=2)
    torch.testing.assert_close(last, before[:, -2:])


def test_order_counts_by_its_positions_alone():
    torch.manual_seed(0)
    reader = SelfAttention(width=4, positions=3, blocks=2)
    e_BLK, is_value_BL, t_BK = (
        torch.randn(2, 3, 4),
        torch.ones(2, 3, dtype=torch.bool),
        torch.ones(2, 4),
    )
    swapped_BLK = e_BLK[:, [1, 0, 2]]
    first = SelfAttention(width=4, positions=3, blocks=1)
    history, swapped = (History(e, is_value_BL, t_BK) for e in (e_BLK, swapped_BLK))
    torch.testing.assert_close(first(history), first(swapped))
    torch.nn.init.normal_(reader.position_LK)
    torch.nn.init.normal_(first.position_LK)
    assert not torch.allclose(first(history), first(swapped))
    assert not torch.allclose(reader(history), reader(swapped))


def test_dropout_acts_in_training_only():
    reader = SelfAttention(width=4, positions=3, blocks=2, dropout=0.5)
    history = History(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4))
    assert not torch.equal(reader(history), reader(history))
    assert torch.equal(reader.eval()(history), reader(history))
