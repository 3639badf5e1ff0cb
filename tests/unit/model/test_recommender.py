"""The recommender: what its towers read, and what it refuses."""

import pytest
import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.iak.kernel import KernelShape, fresh, run
from iak.pipeline.model.recommender import Recommender, decayed
from iak.schemas.job import KernelSpec
from tests.unit.model.small import (
    FEATURES,
    NUMERIC,
    POSITIONS,
    READERS,
    SHAPES,
    history_model,
    small_batch,
    small_model,
)


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


def test_a_feature_of_one_id_is_not_divided_and_has_the_same_bits():
    batch = small_batch(9, seed=1)
    ids = KeyedJaggedTensor(
        keys=["user", "hour", "shop", "friends"],
        values=torch.cat([torch.arange(9) % 7, torch.arange(9) % 7, batch.ids["shop"].values()]),
        lengths=torch.cat(
            [torch.ones(18).int(), batch.ids["shop"].lengths(), torch.zeros(9).int()]
        ),
    )
    known, unknown = small_model(), small_model()
    known.lists = frozenset({"shop", "friends"})
    with CountingDivisions() as divisions:
        one = known.represent(ids, batch.numeric_BN)
    assert divisions.count == 2
    other = unknown.represent(ids, batch.numeric_BN)
    assert torch.equal(one.x_BX, other.x_BX)
    assert torch.equal(one.h_BH, other.h_BH)


class CountingDivisions(TorchDispatchMode):
    """Count the divisions of two tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.div.Tensor
        return func(*args, **(kwargs or {}))


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


@pytest.mark.parametrize("kind", READERS)
def test_what_is_read_of_histories_stands_after_x_in_what_the_trunk_reads(kind):
    model, batch = history_model(kind), small_batch(9, seed=1)
    h_BH, x_BX = model.represent(batch.ids, batch.numeric_BN)
    assert torch.equal(x_BX, small_model().represent(batch.ids, batch.numeric_BN).x_BX)
    (history,) = model.embed(batch.ids, rows=9).histories
    user_RW = model.tables.embedding_bags["user"].weight
    for row, friends in enumerate(batch.ids["friends"].to_dense()):
        newest, padding = friends[-POSITIONS:], max(0, POSITIONS - len(friends))
        assert torch.equal(history.values_BLK[row, padding:], user_RW[newest])
        assert history.is_value_BL[row].tolist() == [False] * padding + [True] * len(newest)
    read = torch.cat([x_BX, model.histories([history])], dim=1)
    assert torch.equal(h_BH, model.trunk(read))


@pytest.mark.parametrize("kind", READERS)
def test_dropout_of_inputs_reaches_what_is_read_of_histories(kind):
    model, batch = history_model(kind), small_batch(9, seed=1)
    model.dropout.p = 0.5
    h_BH = model.represent(batch.ids, batch.numeric_BN).h_BH
    assert not torch.equal(h_BH, model.represent(batch.ids, batch.numeric_BN).h_BH)
    torch.manual_seed(1)
    model.eval()
    assert torch.equal(
        model.represent(batch.ids, batch.numeric_BN).h_BH,
        history_model(kind).eval().represent(batch.ids, batch.numeric_BN).h_BH,
    )


@pytest.mark.parametrize("kind", READERS)
def test_a_fresh_kernel_on_histories_is_the_base_bit_for_bit(kind):
    model, batch = history_model(kind), small_batch(9, seed=1)
    h_BH, x_BX = model.represent(batch.ids, batch.numeric_BN)
    a_BA = torch.cat([h_BH, x_BX], dim=1)
    shape = KernelShape.on(model.heads, KernelSpec(hidden=6, code=3), inputs=a_BA.shape[1])
    output = run(fresh(shape, seed=0), model.heads, h_BH, a_BA, torch.randn(9, 3))
    assert torch.equal(output.logits_BT, model(batch.ids, batch.numeric_BN))
