"""A row is computed once, in the same block whoever asks for it, and workers wait for no one."""

import errno
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.activations import buffer
from iak.pipeline.activations.buffer import (
    ActivationBuffer,
    ChosenRows,
    MissingBlock,
    Recomputed,
    StandardizedBase,
    memory_for,
)
from iak.pipeline.errors import DoesNotFit
from tests.builders import small_catalog
from tests.unit.iak.small import ALONE
from tests.unit.workers import CPU, on_threads

CATALOG = small_catalog()
WIDTH = 2


class CountingBase:
    """A base whose activations are twice a row's number; it notes the rows of each look-up."""

    catalog, device = CATALOG, CPU

    def __init__(self, scale=2.0):
        self.scale, self.looked_up = scale, []

    def look_up(self, rows):
        numbers = rows.column("n").to_pylist() if "n" in rows.column_names else []
        self.looked_up.append(numbers)
        return self.scale * torch.tensor(numbers)[:, None].repeat(1, WIDTH).float()

    def read(self, a_BA):
        return SimpleNamespace(a_BA=a_BA.float())


def rows_of(numbers):
    return pa.table({"n": pa.array(numbers, pa.int64())})


def blocks_of(bounds):
    return [
        MissingBlock(first=first, stop=stop, rows=rows_of(range(first, stop)))
        for first, stop in bounds
    ]


def buffer_of(rows, bounds, base=None, worker=ALONE, **settings):
    """A buffer of rows 0, 1, ...; what lies outside the bounds is there already, as -1."""
    a_nA = torch.full((rows, WIDTH), -1.0)
    return ActivationBuffer(
        a_nA=a_nA, missing=blocks_of(bounds), base=base or CountingBase(), worker=worker, **settings
    )


def numbers(read):
    return read.a_BA[:, 0].tolist()


@given(
    cuts=st.sets(st.integers(1, 19), max_size=4),
    asked=st.lists(st.lists(st.integers(0, 19), max_size=6), max_size=6),
)
def test_each_row_is_computed_once_and_in_its_whole_block(cuts, asked):
    bounds = list(zip([0, *sorted(cuts)], [*sorted(cuts), 20], strict=True))
    whole = buffer_of(20, bounds)
    for index in asked:
        assert numbers(whole.of(torch.tensor(index, dtype=torch.int64))) == [2.0 * i for i in index]
    whole.complete()
    computed = [list(range(first, stop)) for first, stop in bounds]
    assert sorted(block for block in whole.base.looked_up if block) == computed


def test_rows_that_are_there_already_are_not_computed():
    part = buffer_of(9, [(3, 5), (7, 8)])
    assert numbers(part.of(torch.tensor([0, 2, 5, 6, 8]))) == [-1.0] * 5
    assert part.base.looked_up == []
    assert numbers(part.of(torch.tensor([4, 6, 7]))) == [8.0, -1.0, 14.0]
    assert part.base.looked_up == [[3, 4], [7]]


def test_of_a_block_only_the_missing_rows_are_computed():
    block = MissingBlock(first=2, stop=6, rows=rows_of([3, 5]), index_r=torch.tensor([3, 5]))
    some = ActivationBuffer(
        a_nA=torch.full((8, WIDTH), -1.0), missing=[block], base=CountingBase(), worker=ALONE
    )
    some.complete()
    assert some.a_nA[:, 0].tolist() == [-1, -1, -1, 6, -1, 10, -1, -1]


def test_a_look_up_returns_the_rows_alone_without_those_that_fill_them_up(monkeypatch):
    def represented(_model, rows, _catalog, **_settings):
        n_B = torch.tensor([*rows["n"].to_pylist(), 99.0])
        return n_B, n_B

    monkeypatch.setattr(buffer, "represent_rows", represented)
    standard = SimpleNamespace(of=lambda h_B, _: h_B[:, None])
    base = StandardizedBase(model=None, catalog=CATALOG, standard=standard, device=CPU)
    assert base.look_up(rows_of(range(3)))[:, 0].tolist() == [0, 1, 2]


def test_a_long_block_passes_in_pieces_and_is_told_of_once(monkeypatch):
    monkeypatch.setattr(buffer, "LOOK_UP_ROWS", 2)
    told = []
    long = buffer_of(5, [(0, 5)], on_computed=lambda block, a_BA: told.append((block.stop, a_BA)))
    long.of(torch.tensor([4]))
    assert long.base.looked_up == [[0, 1], [2, 3], [4]]
    ((stop, a_BA),) = told
    assert (stop, a_BA[:, 0].tolist()) == (5, [0, 2, 4, 6, 8])


def test_nothing_is_asked_of_others_once_every_worker_is_whole(monkeypatch):
    calls = []
    monkeypatch.setattr(
        buffer, "greatest", lambda numbers, _: (calls.append(tuple(numbers)), numbers)[1]
    )
    whole = buffer_of(2, [(0, 2)])
    for _ in range(3):
        whole.of(torch.tensor([0]))
    assert calls == [(1, 1), (0, 0)]
    assert whole.is_whole


def test_a_worker_without_a_missing_row_takes_part_in_the_others_look_ups():
    bounds = {0: [(0, 2), (2, 4), (4, 6)], 1: []}
    bases = {rank: CountingBase() for rank in bounds}

    def work(worker):
        mine = buffer_of(6, bounds[worker.rank], bases[worker.rank], worker)
        mine.of(torch.tensor([0, 5]))
        mine.complete()
        return mine.is_whole

    on_threads(work, 2)
    assert bases[0].looked_up == [[0, 1], [4, 5], [2, 3]]
    assert bases[1].looked_up == [[], [], []], "as many calls, without rows"


def test_another_base_reads_the_same_memory_and_neither_computes_a_row_twice():
    first = buffer_of(4, [(0, 2), (2, 4)])
    other = first.read_through(CountingBase(scale=100.0))
    first.of(torch.tensor([0]))
    assert numbers(other.of(torch.tensor([1, 3]))) == [2.0, 300.0]
    first.complete()
    assert first.base.looked_up == [[0, 1]]
    assert other.base.looked_up == [[2, 3]]


def test_chosen_rows_are_numbered_as_if_there_were_no_others():
    chosen = ChosenRows(buffer_of(6, [(0, 6)]), torch.tensor([5, 1, 3]))
    assert numbers(chosen.of(torch.tensor([2, 0]))) == [6.0, 10.0]


def test_recomputed_rows_are_rounded_as_stored_ones():
    base = CountingBase(scale=1.001)
    stored = ActivationBuffer(
        a_nA=torch.empty(9, WIDTH, dtype=torch.bfloat16),
        missing=blocks_of([(0, 9)]),
        base=base,
        worker=ALONE,
    )
    recomputed = Recomputed(base=base, rows=rows_of(range(9)), dtype=torch.bfloat16)
    index_B = torch.tensor([7, 3])
    assert numbers(stored.of(index_B)) == numbers(recomputed.of(index_B)) != [7.007, 3.003]


def test_spilled_memory_is_a_file_that_no_folder_lists(tmp_path):
    a_nA = memory_for(5, 3, torch.bfloat16, spill=tmp_path / "new", device=CPU)
    a_nA.fill_(1.5)
    assert (a_nA.shape, a_nA.dtype) == ((5, 3), torch.bfloat16)
    assert list((tmp_path / "new").iterdir()) == []
    assert a_nA.sum() == 22.5


@pytest.mark.parametrize("spill", [None, "folder"])
def test_no_rows_need_no_file(tmp_path, spill):
    folder = spill and tmp_path / spill
    assert memory_for(0, 3, torch.float32, spill=folder, device=CPU).shape == (0, 3)
    assert list(tmp_path.iterdir()) == []


def raising(*errors):
    left = list(errors)

    def fallocate(*_):
        if left:
            raise left.pop(0)

    return fallocate


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_run_that_does_not_fit(tmp_path, monkeypatch, code):
    monkeypatch.setattr(buffer.os, "posix_fallocate", raising(OSError(code, "full")))
    with pytest.raises(DoesNotFit, match=r"no room for them \(full\).*activations=recompute"):
        memory_for(5, 3, torch.float32, spill=tmp_path, device=CPU)
    assert list(tmp_path.iterdir()) == [], "no empty file stays behind"


def test_a_folder_that_cannot_be_written_gives_way_to_the_temporary_one(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "spill").write_text("a file")
    monkeypatch.setattr(buffer.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    a_nA = memory_for(2, 2, torch.float32, spill=tmp_path / "spill", device=CPU)
    assert a_nA.shape == (2, 2)
    assert "cannot hold activations" in caplog.text


def test_where_neither_folder_can_be_written_both_are_named(tmp_path, monkeypatch):
    denied = OSError(errno.EPERM, "denied")
    monkeypatch.setattr(buffer.os, "posix_fallocate", raising(denied, denied))
    monkeypatch.setattr(buffer.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    with pytest.raises(DoesNotFit, match=r"neither .*spill nor .*temporary can hold"):
        memory_for(2, 2, torch.float32, spill=tmp_path / "spill", device=CPU)
