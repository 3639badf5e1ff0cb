"""A grown table is filled from the rows that its ids used before, in little memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.sharding import growth
from iak.pipeline.sharding.growth import read_grown

WIDTH = 4


def table_of(rows):
    return torch.arange(rows * WIDTH, dtype=torch.float32).reshape(rows, WIDTH)


class Table:
    """A base's table that notes how many rows each reading asks for."""

    def __init__(self, rows):
        self.weight_RW, self.asked = table_of(rows), []

    def read(self, out_RW, *, table, row, col):
        assert table == "t"
        self.asked.append(len(out_RW))
        out_RW.copy_(self.weight_RW[row : row + len(out_RW), col : col + out_RW.shape[1]])


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch):
    monkeypatch.setattr(growth, "BUFFER_BYTES", 3 * 4 * WIDTH)  # three rows


@given(
    rows_before=st.integers(3, 30),
    rows_now=st.integers(1, 60),
    row=st.integers(0, 20),
    col=st.integers(0, WIDTH - 1),
    seed=st.integers(0, 99),
)
def test_every_row_is_its_origins_row(rows_before, rows_now, row, col, seed):
    of = np.random.default_rng(seed).integers(0, rows_before, row + rows_now)
    before = Table(rows_before)
    out_RW = torch.full((rows_now, WIDTH - col), -1.0)
    origin = RowOrigin(rows_before=rows_before, of=lambda rows_R: of[rows_R])
    read_grown(out_RW, before.read, origin, table="t", row=row, col=col)
    assert torch.equal(out_RW, before.weight_RW[of[row:], col:])
    assert before.asked[0] == 2, "the rows of missing and unseen ids"
    assert max(before.asked) * 4 * (WIDTH - col) <= growth.BUFFER_BYTES


def test_a_run_of_neighbours_is_read_at_once():
    before = Table(40)
    out_RW = torch.empty(9, WIDTH)
    origin = RowOrigin(rows_before=40, of=lambda rows_R: rows_R + 20)
    read_grown(out_RW, before.read, origin, table="t", row=0, col=0)
    assert before.asked == [2, 3, 3, 3]


def test_a_view_that_is_not_contiguous_is_filled_as_well():
    before, wide_RW = Table(10), torch.zeros(5, 2 * WIDTH)
    origin = RowOrigin(rows_before=10, of=lambda rows_R: rows_R + 4)
    read_grown(wide_RW[:, WIDTH:], before.read, origin, table="t", row=0, col=0)
    assert torch.equal(wide_RW[:, WIDTH:], before.weight_RW[4:9])
    assert not wide_RW[:, :WIDTH].any()
