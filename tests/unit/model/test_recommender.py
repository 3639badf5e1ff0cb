import pytest
import torch
from torch import fx
from torchrec.modules.crossnet import LowRankCrossNet
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from iak.pipeline.model.heads import Heads
from iak.pipeline.model.recommender import Recommender, decayed
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from tests.unit.model.small import FEATURES, NUMERIC, SHAPES, small_batch, small_model


class TableLeaf(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, EmbeddingBagCollection) or super().is_leaf_module(module, name)


def test_x_is_each_features_mean_in_declared_order_and_then_the_numbers():
    model, batch = small_model(), small_batch(9, seed=1)
    x_BX = model.represent(batch.ids, batch.numeric_BN).x_BX
    table_of = {f: shape.name for shape in SHAPES for f in shape.features}
    for row in range(9):
        means = []
        for feature in FEATURES:
            weight = model.tables.embedding_bags[table_of[feature]].weight
            bag = batch.ids[feature].to_dense()[row]
            means.append(weight[bag].mean(0) if len(bag) else torch.zeros(weight.shape[1]))
        torch.testing.assert_close(x_BX[row], torch.cat([*means, batch.numeric_BN[row]]))


def test_attach_points_are_as_wide_as_what_they_name():
    model, batch = small_model(), small_batch(4, seed=0)
    represented = model.represent(batch.ids, batch.numeric_BN)
    assert model.attach_points == {
        "h": represented.h_BH.shape[1],
        "x": represented.x_BX.shape[1],
    }


def test_frozen_tables_take_no_part_in_autograd():
    model, batch = small_model(), small_batch(4, seed=0)
    assert model.represent(batch.ids, batch.numeric_BN).x_BX.requires_grad
    model.tables_frozen = True
    represented = model.represent(batch.ids, batch.numeric_BN)
    assert not represented.x_BX.requires_grad
    assert represented.h_BH.requires_grad


def test_decay_is_the_gradient_of_half_the_mean_square_length():
    e_BE = torch.randn(5, 3, requires_grad=True)
    (decayed(e_BE, 0.4) * 2).sum().backward()
    expected = torch.full((5, 3), 2.0) + 0.4 * e_BE.detach() / 5
    torch.testing.assert_close(e_BE.grad, expected)


def test_forward_can_be_traced():
    model, batch = small_model(), small_batch(5, seed=0)
    traced = fx.GraphModule(model, TableLeaf().trace(model))
    other = small_batch(8, seed=2)
    for rows in (batch, other):
        assert torch.equal(traced(rows.ids, rows.numeric_BN), model(rows.ids, rows.numeric_BN))


def test_an_empty_batch_has_no_logits():
    model, batch = small_model(), small_batch(5, seed=0, last=0)
    assert model(batch.ids, batch.numeric_BN).shape == (0, 3)


def test_features_must_be_those_of_the_tables():
    model = small_model()
    with pytest.raises(ValueError, match=r"no table embeds \['age'\], nothing reads \['shop'\]"):
        Recommender(
            tables=model.tables,
            features=["hour", "user", "age", "friends"],
            num_numeric=NUMERIC,
            trunk=model.trunk,
            heads=model.heads,
        )


def test_heads_are_one_tower_per_task():
    heads, h_BH = Heads(tasks=2, width=3, hidden=4), torch.randn(5, 6)
    logits_BT = heads(h_BH)
    for t in range(2):
        hidden_BD = (h_BH[:, 3 * t : 3 * t + 3] @ heads.w1_TWD[t] + heads.b1_TD[t]).relu()
        torch.testing.assert_close(logits_BT[:, t], hidden_BD @ heads.w2_TD[t] + heads.b2_T[t])


def test_the_trunk_mixes_experts_by_each_tasks_gate():
    trunk = DcnMmoe(width=6, cross_layers=0, mlp=[], experts=3, expert_width=4, tasks=2)
    x_BX = torch.randn(5, 6)
    e_BEW = trunk.expert(x_BX).relu().view(5, 3, 4)
    gates_BTE = trunk.gate(x_BX).view(5, 2, 3).softmax(-1)
    for t in range(2):
        mixture_BW = sum(gates_BTE[:, t, e, None] * e_BEW[:, e] for e in range(3))
        torch.testing.assert_close(trunk(x_BX)[:, 4 * t : 4 * t + 4], mixture_BW)


def test_crosses_may_be_of_low_rank():
    trunk = DcnMmoe(
        width=6, cross_layers=2, cross_rank=2, mlp=[8, 5], experts=2, expert_width=4, tasks=2
    )
    assert isinstance(trunk.cross, LowRankCrossNet)
    assert trunk(torch.randn(3, 6)).shape == (3, trunk.out_width)


def test_dropout_acts_in_training_only():
    trunk = DcnMmoe(
        width=6, cross_layers=1, mlp=[8], experts=2, expert_width=4, tasks=2, dropout=0.5
    )
    x_BX = torch.randn(3, 6)
    assert not torch.equal(trunk(x_BX), trunk(x_BX))
    trunk.eval()
    assert torch.equal(trunk(x_BX), trunk(x_BX))
