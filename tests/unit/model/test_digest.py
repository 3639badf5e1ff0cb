"""A digest is of values, names and shapes, and not of how a table is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model import digest as digest_module
from iak.pipeline.model.digest import digest, freeze, weighted_sum
from iak.pipeline.model.tables import LocalShard
from tests.unit.model.small import small_model
from tests.unit.workers import on_threads

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


def test_freezing_stops_autograd_everywhere():
    model = small_model()
    freeze(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_every_worker_has_the_digest_of_all_parts_together():
    whole = torch.rand(12, 4)
    bias = torch.rand(5)
    expected = digest([rectangle(whole, 0, 12, 0, 4)], {"bias": bias})

    def mine(worker):
        rows = slice(4 * worker.rank, 4 * worker.rank + 4)
        part = rectangle(whole, rows.start, rows.stop, 0, 4)
        return digest([part], {"bias": bias}, worker=worker)

    assert on_threads(mine, 3) == [expected] * 3


@given(st.integers(1, 40), st.integers(1, 50))
def test_a_sum_in_chunks_is_the_sum(rows, elements):
    whole = torch.rand(rows, 3)
    expected = weighted_sum(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest_module, "CHUNK_ELEMENTS", elements)
        assert weighted_sum(whole) == expected
