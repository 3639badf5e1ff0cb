import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model.digest import digest, freeze, weighted_sum
from iak.pipeline.model.tables import LocalShard, TableShape, UniformStart, build_tables, mix64
from tests.unit.model.small import small_model

DTYPES = [torch.float32, torch.float16, torch.int64, torch.uint8]


def rectangle(whole, top, bottom, left, right):
    part = whole[top:bottom, left:right]
    return LocalShard(table="t", row_offset=top, col_offset=left, tensor_RW=part)


@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 9),
    row_cut=st.integers(0, 40),
    col_cut=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES),
)
def test_the_digest_does_not_see_how_a_table_is_cut(rows, width, row_cut, col_cut, dtype):
    whole = (torch.rand(rows, width) * 100).to(dtype)
    row_cut, col_cut = min(row_cut, rows), min(col_cut, width)
    parts = [
        rectangle(whole, top, bottom, left, right)
        for top, bottom in ((0, row_cut), (row_cut, rows))
        for left, right in ((0, col_cut), (col_cut, width))
    ]
    assert digest(parts) == digest([rectangle(whole, 0, rows, 0, width)])


@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_the_digest_sees_any_flipped_bit(data, dtype):
    whole = (torch.rand(11, 5) * 100).to(dtype)
    changed = whole.clone()
    raw = changed.view(torch.uint8).view(-1)
    byte = data.draw(st.integers(0, raw.numel() - 1))
    raw[byte] ^= 1 << data.draw(st.integers(0, 7))
    assert weighted_sum(whole) != weighted_sum(changed)


def test_the_digest_sees_names_types_shapes_and_swapped_rows():
    t = torch.rand(4, 4)
    digests = [
        digest(replicas={"a": t}),
        digest(replicas={"b": t}),
        digest(replicas={"a": t.view(torch.int32)}),
        digest(replicas={"a": t.view(2, 8)}),
        digest(replicas={"a": t[[1, 0, 2, 3]]}),
        digest(replicas={"a": -t}),
        digest(replicas={"a": t, "b": t[0, 0]}),
    ]
    assert len({d.combined for d in digests}) == len(digests)


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


def test_freezing_stops_autograd_everywhere():
    model = small_model()
    freeze(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
