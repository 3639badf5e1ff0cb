"""Target attention against numbers that were worked by hand."""

import pytest
import torch

from iak.pipeline.model.histories.din import TargetAttention
from iak.pipeline.model.histories.histories import History


def set_to(parameter, value):
    parameter.data.copy_(torch.tensor(value))


def one_unit():
    """Hidden unit e + 2 e t + 3 t - 8, PReLU of slope 1/4, weight 2 (unit) + 1/2."""
    reader = TargetAttention(width=1, hidden=1)
    set_to(reader.of_value.weight, [[1.0, 2.0]])
    set_to(reader.of_target.weight, [[3.0]])
    set_to(reader.of_target.bias, [-8.0])
    set_to(reader.weigh.weight, [[2.0]])
    set_to(reader.weigh.bias, [0.5])
    return reader


@pytest.mark.parametrize("padding", [0, 2])
def test_one_unit_by_hand(padding):
    """Target 1, values 2 and -1.

    Value 2: unit 2 + 4 + 3 - 8 = 1, weight 2.5. Value -1: unit -1 - 2 + 3 - 8 = -8, PReLU -2,
    weight -3.5. Their sum is 2.5 * 2 + -3.5 * -1 = 8.5: the weights are not normalised.
    """
    values = [0.0] * padding + [2.0, -1.0]
    is_value = [False] * padding + [True, True]
    history = History(
        torch.tensor([values])[:, :, None], torch.tensor([is_value]), torch.tensor([[1.0]])
    )
    assert one_unit()(history).tolist() == [[8.5]]


def test_units_of_value_and_target_meet_their_own_kind():
    """Hidden unit: the product of the second units alone. Values (1, 2) and (3, 4), target (5, 6).

    Weights 2 * 6 = 12 and 4 * 6 = 24. Their sum is 12 (1, 2) + 24 (3, 4) = (84, 120).
    """
    reader = TargetAttention(width=2, hidden=1)
    for parameter in reader.parameters():
        parameter.data.zero_()
    set_to(reader.of_value.weight, [[0.0, 0.0, 0.0, 1.0]])
    set_to(reader.weigh.weight, [[1.0]])
    history = History(
        torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[5.0, 6.0]]),
    )
    assert reader(history).tolist() == [[84.0, 120.0]]
