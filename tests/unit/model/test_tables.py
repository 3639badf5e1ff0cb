"""Tables: where each row starts, whatever part of it a worker has."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from iak.pipeline.model.embedding_bags import build_tables, whole_tables
from iak.pipeline.model.tables import TableShape, UniformStart, mix64, table_name, torchrec_name


@given(x=st.integers(-(2**63), 2**63 - 1))
def test_mix64_is_splitmix64(x):
    z, ones = x % 2**64, 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ones
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ones
    assert int(mix64(torch.tensor(x))) % 2**64 == z ^ (z >> 31)


@given(row=st.integers(0, 50), col=st.integers(0, 7))
def test_a_shard_starts_as_its_place_in_the_table(row, col):
    start = UniformStart(table="t", seed=3, scale=0.5)
    whole, part = torch.empty(60, 12), torch.empty(10, 5)
    start(whole)
    start(part, row, col)
    assert torch.equal(part, whole[row : row + 10, col : col + 5])


def test_starts_are_uniform_and_differ_by_table_and_seed():
    draws = [
        UniformStart(table=table, seed=seed, scale=2.0)(torch.empty(20_000, 5))
        for table, seed in (("a", 0), ("b", 0), ("a", 1))
    ]
    for draw in draws:
        assert draw.abs().max() <= 2.0
        assert abs(draw.mean()) < 0.02
        assert abs(draw.std() - 2 / 3**0.5) < 0.02
    correlation = torch.corrcoef(torch.stack([draw.flatten() for draw in draws]))
    assert (correlation - torch.eye(3)).abs().max() < 0.02


def test_a_feature_read_from_two_tables_is_refused():
    shapes = [TableShape(name=n, rows=2, width=4, features=("f",)) for n in "ab"]
    with pytest.raises(ValueError, match=r"more than one: \['f'\]"):
        build_tables(shapes, init_scale=1.0, device=torch.device("cpu"))


TAKEN = [name for name in dir(nn.ModuleDict()) if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]


def test_a_table_may_have_any_name_of_a_catalogue():
    assert {"type", "items", "keys", "values", "half", "training"} <= set(TAKEN)
    names = [*TAKEN, "item_id"]
    shapes = [TableShape(name=name, rows=2, width=4, features=(f"f_{name}",)) for name in names]
    tables = build_tables(shapes, init_scale=1.0, device=torch.device("cpu"))
    assert [shard.table for shard in whole_tables(tables)] == names
    assert [table_name(torchrec_name(name)) for name in names] == names
    assert torchrec_name("item_id") == "item_id", "stored names stay as they are"
