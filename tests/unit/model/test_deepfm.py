"""DeepFM against its formulas."""

import pytest
import torch

from iak.pipeline.base.dense_parts import build_trunk
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.trunks.deepfm import DeepFm
from iak.schemas.job import ModelSpec

SIZES = {"embeddings": [2, 2], "numbers": 1, "width": 2, "expert_width": 3, "tasks": 2}
X_BX = torch.tensor([[1.0, 2.0, 3.0, -1.0, 2.0]])


def hand_case():
    """Vectors (1, 2), (3, -1) and 2 * (0.5, 1)."""
    trunk = DeepFm(**SIZES, mlp=[4])
    trunk.vectors.weight_KX.data[:, 4] = torch.tensor([0.5, 1.0])
    return trunk


def test_second_order_is_the_sum_over_pairs():
    """(1, 2)(3, -1) + (1, 2)(1, 2) + (3, -1)(1, 2), unit by unit."""
    torch.testing.assert_close(hand_case().second_order(X_BX), torch.tensor([[7.0, 0.0]]))


def test_h_adds_first_order_second_order_and_deep_part():
    trunk = hand_case()
    w_HZ = torch.zeros_like(trunk.out.weight)
    w_HZ[0, :5] = 1  # <1, x> = 7
    w_HZ[1, 5:7] = 1  # the paper's second order: 7 + 0
    w_HZ[2, 7:] = 1  # the deep part
    w_HZ[3] = 1  # all three
    trunk.out.weight.data, trunk.out.bias.data = w_HZ, torch.zeros(6)
    deep = (X_BX @ trunk.deep[0].weight.T + trunk.deep[0].bias).relu().sum()
    wanted_H = torch.stack([torch.tensor(7.0), torch.tensor(7.0), deep, 14 + deep])
    torch.testing.assert_close(trunk(X_BX)[0, :4], wanted_H)


def test_dropout_acts_in_the_deep_part_while_training():
    trunk = DeepFm(**SIZES, mlp=[64], dropout=0.5)
    assert not torch.equal(trunk(X_BX), trunk(X_BX))
    assert torch.equal(trunk.eval()(X_BX), trunk(X_BX))


def test_sizes_that_do_not_agree_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"no deep part.*model\.mlp"):
        DeepFm(**SIZES, mlp=[])
    with pytest.raises(BadRequest, match=r"the catalogue has none.*model\.trunk=mlp"):
        build_trunk(ModelSpec(trunk="deepfm"), embeddings=[], numbers=3, tasks=2)
