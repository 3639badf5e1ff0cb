"""Convolutions against numbers that were worked by hand."""

import pytest
import torch

from iak.pipeline.model.histories.caser import Convolutions, windows
from iak.pipeline.model.histories.histories import History


def set_to(parameter, value):
    parameter.data.copy_(torch.tensor(value))


@pytest.mark.parametrize("padding", [0, 2])
def test_two_horizontal_filters_and_a_vertical_one_by_hand(padding):
    """Values 1 and 2, target 4. Windows of two values: (0, 1) and (1, 2).

    Filter 3 a - b + 1/2: -0.5, so 0, and 1.5. Filter -a - b + 1/2 is below zero in both, so 0; in
    padding it would be 1/2. The vertical filter 10 and 1: 10 * 1 + 1 * 2 = 12. Joined:
    2 * 1.5 + 5 * 0 - 12 / 10 + 1/5 = 2, and its product with the target is 8.
    """
    reader = Convolutions(
        width=1, positions=2 + padding, heights=[2], filters=2, vertical_filters=1
    )
    set_to(reader.horizontal[0].weight, [[3.0, -1.0], [-1.0, -1.0]])
    set_to(reader.horizontal[0].bias, [0.5, 0.5])
    set_to(reader.vertical.weight, [[100.0] * padding + [10.0, 1.0]])
    set_to(reader.join.weight, [[2.0, 5.0, -0.1]])
    set_to(reader.join.bias, [0.2])
    history = History(
        torch.tensor([[0.0] * padding + [1.0, 2.0]])[:, :, None],
        torch.tensor([[False] * padding + [True, True]]),
        torch.tensor([[4.0]]),
    )
    torch.testing.assert_close(reader(history), torch.tensor([[2.0, 8.0]]))


def test_a_window_ends_at_each_position_and_has_its_values_side_by_side():
    e_BLK = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert windows(e_BLK, 1).tolist() == e_BLK.tolist()
    assert windows(e_BLK, 2).tolist() == [[[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6]]]


def test_a_vertical_filter_weighs_positions_alike_for_every_unit():
    """Units (1, 3) and (2, 4), weights 10 and 1: (12, 34), joined by their difference."""
    reader = Convolutions(width=2, positions=2, heights=[1], filters=1, vertical_filters=1)
    for parameter in reader.parameters():
        parameter.data.zero_()
    set_to(reader.vertical.weight, [[10.0, 1.0]])
    set_to(reader.join.weight, [[0.0, -1.0, 1.0], [0.0, 1.0, 0.0]])
    history = History(
        torch.tensor([[[1.0, 3.0], [2.0, 4.0]]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[1.0, 2.0]]),
    )
    assert reader(history).tolist() == [[22.0, 12.0, 22.0, 24.0]]


def test_dropout_acts_in_training_only():
    reader = Convolutions(
        width=4, positions=3, heights=[2, 5], filters=8, vertical_filters=2, dropout=0.5
    )
    history = History(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4))
    assert not torch.equal(reader(history), reader(history))
    assert torch.equal(reader.eval()(history), reader(history))
