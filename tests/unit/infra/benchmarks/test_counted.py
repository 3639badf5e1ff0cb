import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.sharding.quantised import Lookup
from iak.pipeline.sharding.row_format import PRECISIONS, row_bytes
from infra.benchmarks import counted

CPU = torch.device("cpu")


def written(precision, rows, width, first_row=0):
    """What a frozen table holds of these rows."""
    kind = {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.uint8)
    columns = width if precision in ("fp32", "fp16") else row_bytes(precision, width)
    out = torch.zeros(rows, columns, dtype=kind)
    *_, done = counted.write(out, precision, first_row=first_row)
    assert done == rows
    return out


def looked_up(out, precision, width):
    bytes_RN = out.contiguous().view(torch.uint8)
    ids, ends = torch.arange(len(out)), torch.arange(len(out) + 1)
    return Lookup(precision, width, CPU)(bytes_RN, ids, ends)


@pytest.mark.parametrize("width", [8, 10, 24])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_lookup_brings_the_values_that_are_recomputed(precision, width):
    found = looked_up(written(precision, 200, width), precision, width)
    assert torch.equal(found, counted.values(torch.arange(200), precision, width=width))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_differ_and_have_no_zero(precision):
    """More rows than are written at once; in int4 a row has but 32 bits."""
    rows = 150_000
    values_RW = counted.values(torch.arange(rows), precision, width=8)
    assert (values_RW != 0).all()
    assert len(torch.unique(written(precision, rows, 8), dim=0)) == rows
    assert values_RW.mean().abs() < 0.01 * values_RW.abs().max()


@given(first_row=st.integers(0, 2**40), precision=st.sampled_from(PRECISIONS))
def test_a_row_is_the_same_wherever_its_part_begins(first_row, precision):
    whole = written(precision, 12, 8, first_row)
    assert torch.equal(whole[5:], written(precision, 7, 8, first_row + 5))


@pytest.mark.parametrize(
    ("rows", "precision", "width"),
    [(2**32 + 1, "int4", 8), (257, "int8", 1), (65_537, "int8", 2), (10, "int8", 3)],
)
def test_rows_that_cannot_all_differ_are_refused(rows, precision, width):
    with pytest.raises(BadRequest, match="cannot all differ"):
        counted.check(precision, rows=rows, width=width)


@pytest.mark.parametrize(("precision", "width"), [("int4", 8), ("int8", 4), ("fp16", 4)])
def test_a_billion_rows_can_differ(precision, width):
    counted.check(precision, rows=1_000_000_000, width=width)
