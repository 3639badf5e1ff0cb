"""Layers that look rows up elsewhere answer as those whose place they take, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import embedding

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.module_tables import WeightRead, find_tables, replace_tables, settle_norms
from tests import mixed_tables
from tests.unit.iak.small import normal

ROWS, WIDTH = 11, 5
bags_of_ids = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), max_size=5)


def elsewhere(layer):
    """The layer in a module, and a copy of that module whose rows lie elsewhere."""
    weight, moved = layer.weight, nn.ModuleDict({"t": layer})
    replace_tables(moved, ["t"], lambda _, ids_I: embedding(ids_I, weight))
    assert not moved.state_dict()
    return moved["t"]


@given(ids=bags_of_ids, mode=st.sampled_from(["sum", "mean", "max"]), last=st.booleans())
def test_bags_are_pooled_by_the_layer_s_own_rule(ids, mode, last):
    layer = nn.EmbeddingBag(ROWS, WIDTH, mode=mode, include_last_offset=last)
    flat = torch.tensor([i for part in ids for i in part], dtype=torch.int64)
    ends = torch.tensor([0, *map(len, ids)]).cumsum(0)
    offsets = ends if last else ends[:-1]
    weights = normal(1, len(flat))[0] if mode == "sum" else None
    for given_weights in (None, weights):
        own = layer(flat, offsets, per_sample_weights=given_weights)
        assert torch.equal(elsewhere(layer)(flat, offsets, given_weights), own)


@given(ids=st.lists(st.integers(0, ROWS - 1), max_size=12), is_square=st.booleans())
def test_an_embedding_of_any_shape_is_that_of_the_layer(ids, is_square):
    layer, flat = nn.Embedding(ROWS, WIDTH, padding_idx=2), torch.tensor(ids, dtype=torch.int32)
    shaped = flat[: len(ids) // 3 * 3].view(-1, 3) if is_square else flat
    assert torch.equal(elsewhere(layer)(shaped), layer(shaped))


def test_bags_of_equal_length_need_no_offsets():
    layer, ids = nn.EmbeddingBag(ROWS, WIDTH), torch.tensor([[1, 2], [3, 3]])
    assert torch.equal(elsewhere(layer)(ids), layer(ids))


def test_a_weight_that_lies_elsewhere_cannot_be_read_and_its_settings_can():
    layer = elsewhere(nn.Embedding(ROWS, WIDTH))
    assert (layer.num_embeddings, layer.embedding_dim) == (ROWS, WIDTH)
    with pytest.raises(WeightRead, match="the weight of t lies in shards"):
        _ = layer.weight


def test_tables_that_compute_something_else_stay_whole_with_a_reason():
    found = find_tables(mixed_tables.Mixed())
    assert set(mixed_tables.SHARDED) <= found.tables.keys()
    assert found.whole == {"tied": "another name of the module has the same weight"}


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_of_a_bounded_norm_are_those_that_a_lookup_leaves_and_none_changes_them(kind):
    torch.manual_seed(0)
    layer, other = kind(ROWS, 64, max_norm=0.7), kind(ROWS, 64, max_norm=0.7)
    other.load_state_dict(layer.state_dict())
    settle_norms(other.requires_grad_(False))
    settled, ids = other.weight.clone(), torch.arange(ROWS)[:, None]
    with torch.no_grad():
        for _ in range(3):  # the layer itself changes its weight with its first reads
            own, moved = layer(ids), other(ids)
    assert torch.equal(moved, own)
    assert torch.equal(other.weight, settled)


class Odd(nn.Embedding):
    """A layer of somebody's own."""


def hooked():
    layer = nn.Embedding(3, 2)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [
        ("t", Odd(3, 2), "Odd may compute something else"),
        ("t", hooked(), "hooks are registered on it"),
        ("t", nn.Embedding(3, 2).double(), r"its rows are torch\.float64"),
        ("t", nn.EmbeddingBag(3, 2, padding_idx=0), "its padding_idx leaves ids out"),
        ("a/b", nn.Embedding(3, 2), "its name cannot be that of a folder"),
        ("t", nn.Embedding(0, 2), "it has no rows"),
    ],
)
def test_a_layer_stays_whole(name, layer, says):
    found = find_tables(nn.ModuleDict({name: layer}))
    assert not found.tables
    assert found.whole[name].startswith(says.replace("\\", ""))


def test_a_module_may_name_its_tables():
    module = mixed_tables.Mixed()
    module.tables = ("users",)
    assert (list(find_tables(module).tables), find_tables(module).whole) == (["users"], {})
    module.tables = ("users", "top")
    with pytest.raises(BadRequest, match=r"names \['top'\], which are no nn\.Embedding"):
        find_tables(module)


def test_something_else_of_that_name_names_no_tables():
    module = nn.Module()
    module.tables = nn.ModuleDict({"users": nn.Embedding(3, 2)})
    assert list(find_tables(module).tables) == ["tables.users"]
