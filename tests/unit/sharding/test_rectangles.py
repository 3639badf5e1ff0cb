"""Matrices in files: any rectangle is read back from any cut, and no damage goes unseen."""

import os
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt, NotPermitted
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding import rectangles
from iak.pipeline.sharding.audit import Entry
from iak.pipeline.sharding.rectangles import (
    Source,
    cover_problems,
    matrix_of,
    together,
    verify_file,
    write_rectangles,
)
from tests.unit.workers import on_threads

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
ROWS, COLS = 11, 6


def matrix(dtype=torch.float32):
    return torch.arange(ROWS * COLS, dtype=torch.float32).reshape(ROWS, COLS).to(dtype)


def cut(row_cuts, col_cuts):
    """Shards of the matrix between these rows and these columns."""
    whole_RW = matrix()
    rows, cols = [0, *sorted(row_cuts), ROWS], [0, *sorted(col_cuts), COLS]
    return [
        LocalShard(
            table="t",
            row_offset=top,
            col_offset=left,
            tensor_RW=whole_RW[top:bottom, left:right],
        )
        for left, right in pairwise(cols)
        for top, bottom in pairwise(rows)
    ]


@given(
    row_cuts=st.sets(st.integers(1, ROWS - 1), max_size=3),
    col_cuts=st.sets(st.integers(1, COLS - 1), max_size=2),
    max_file_bytes=st.sampled_from([1, 50, 10**6]),
    top=st.integers(0, ROWS - 1),
    left=st.integers(0, COLS - 1),
    data=st.data(),
)
def test_any_rectangle_is_read_back_from_any_cut(
    tmp_path_factory, row_cuts, col_cuts, max_file_bytes, top, left, data
):
    folder = tmp_path_factory.mktemp("t")
    entries = write_rectangles(cut(row_cuts, col_cuts), folder, max_file_bytes=max_file_bytes)
    rows = data.draw(st.integers(1, ROWS - top))
    cols = data.draw(st.integers(1, COLS - left))
    out_RW = torch.full((rows, cols), -1.0)
    Source(folder, entries).read(out_RW, table="t", row=top, col=left)
    assert torch.equal(out_RW, matrix()[top : top + rows, left : left + cols])
    assert matrix_of(entries) == Entry(shape=(ROWS, COLS), dtype="float32")
    assert not list(cover_problems("t", matrix_of(entries), entries))


def test_a_file_has_no_more_bytes_of_values_than_it_may(tmp_path):
    row_bytes = COLS * 4
    entries = write_rectangles(cut((), ()), tmp_path, max_file_bytes=3 * row_bytes + 1)
    assert [(entry.row_offset, entry.rows) for entry in entries] == [(0, 3), (3, 3), (6, 3), (9, 2)]
    assert [entry.path for entry in entries][1] == "tables/t/r3-c0.safetensors"
    assert all(entry.bytes == (tmp_path / entry.path).stat().st_size for entry in entries)


def test_an_empty_shard_writes_no_file(tmp_path):
    empty = LocalShard(table="t", row_offset=0, col_offset=0, tensor_RW=torch.empty(0, COLS))
    assert write_rectangles([empty], tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.uint8])
def test_values_of_any_type_keep_their_type(tmp_path, dtype):
    shard = LocalShard(table="t", row_offset=0, col_offset=0, tensor_RW=matrix(dtype))
    (entry,) = write_rectangles([shard], tmp_path)
    out_RW = torch.empty(ROWS, COLS, dtype=dtype)
    Source(tmp_path, [entry]).read(out_RW, table="t", row=0, col=0)
    assert entry.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(out_RW, matrix(dtype))


@pytest.mark.parametrize("name", ["../t", "a/b", ".hidden", "", "a b", "tä"])
def test_a_table_whose_name_could_leave_its_folder_is_refused(tmp_path, name):
    shard = LocalShard(table=name, row_offset=0, col_offset=0, tensor_RW=matrix())
    with pytest.raises(BadRequest, match="cannot be a directory"):
        write_rectangles([shard], tmp_path)


def written(tmp_path):
    return write_rectangles(cut((5,), ()), tmp_path)


def test_a_file_is_compared_once_and_only_where_it_is_needed(tmp_path):
    entries = written(tmp_path)
    source = Source(tmp_path, entries)
    with mock.patch.object(rectangles, "verify_file", wraps=verify_file) as verify:
        for _ in range(2):
            source.read(torch.empty(2, COLS), table="t", row=1, col=0)
    assert [call.args[1].row_offset for call in verify.call_args_list] == [0]


@given(at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_a_flipped_byte_is_refused_with_both_digests(tmp_path_factory, at, mask):
    folder = tmp_path_factory.mktemp("flipped")
    entry = written(folder)[0]
    content = bytearray((folder / entry.path).read_bytes())
    content[at % len(content)] ^= mask
    (folder / entry.path).write_bytes(content)
    with pytest.raises(Corrupt, match="is not the file that was published") as error:
        Source(folder, [entry]).read(torch.empty(1, COLS), table="t", row=0, col=0)
    assert entry.sha256 in str(error.value)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    entry = written(tmp_path)[1]
    (tmp_path / entry.path).unlink()
    with pytest.raises(Corrupt, match=r"r5-c0\.safetensors is missing.*Restore it"):
        verify_file(tmp_path, entry)


def test_a_file_that_may_not_be_read_is_no_damage(tmp_path):
    entry = written(tmp_path)[0]
    with (
        mock.patch.object(rectangles, "sha256_of_file", side_effect=PermissionError(13, "denied")),
        pytest.raises(NotPermitted),
    ):
        verify_file(tmp_path, entry)


def test_an_entry_of_another_shape_than_its_file_is_refused(tmp_path):
    entry = replace(written(tmp_path)[0], rows=4)
    with pytest.raises(Corrupt, match=r"holds \[5, 6\]; its entry says \[4, 6\]"):
        Source(tmp_path, [entry]).read(torch.empty(1, COLS), table="t", row=0, col=0)


def test_bytes_that_are_no_safetensors_are_named(tmp_path):
    (tmp_path / "x").write_bytes(b"no tensors")
    with pytest.raises(Corrupt, match="x is not a safetensors file"):
        rectangles.opened(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e[:1], "1 files do not make up 11 rows; they end at 5"),
        (lambda e: [e[0], replace(e[1], row_offset=4, rows=7)], "2 files do not make up 11 rows"),
        (lambda e: [replace(e[0], cols=5), e[1]], "do not make up 6"),
        (lambda e: [replace(e[0], dtype="float16"), e[1]], "holds float16, other files"),
        (lambda e: [replace(e[0], path="tables/u/r0.safetensors"), e[1]], "should be tables/t/r0"),
        (lambda e: [*e, replace(e[1], row_offset=11, rows=0)], "3 files do not make up 11 rows"),
    ],
    ids=["a band lacks", "an overlap", "narrower", "another type", "another path", "an empty one"],
)  # fmt: skip
def test_files_that_do_not_tile_their_table_are_told(tmp_path, change, says):
    entries = written(tmp_path)
    problems = list(cover_problems("t", matrix_of(entries), change(entries)))
    assert any(says in problem for problem in problems), problems


def test_what_one_worker_raises_is_raised_on_every_worker():
    def work(worker):
        def mine():
            if worker.rank == 1:
                raise Corrupt("file of rank 1")
            return worker.rank

        try:
            return together(mine, worker)
        except Corrupt as error:
            return str(error)

    assert on_threads(work, 3) == ["file of rank 1"] * 3


def test_workers_get_the_results_of_all_by_rank():
    results = on_threads(lambda worker: together(lambda: worker.rank * 10, worker), 3)
    assert results == [[0, 10, 20]] * 3


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (PermissionError(13, "denied", "/weights/x"), NotPermitted, "/weights/x"),
        (OSError(28, "No space left on device"), BadRequest, "No space left"),
    ],
)
def test_what_the_disk_refuses_is_a_deliberate_error(error, kind, says):
    with pytest.raises(kind, match=says):
        together(raising(error), ALONE)


def test_an_error_of_the_program_itself_is_not_disguised():
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 // 0, ALONE)


def test_whole_tensors_lie_beside_the_tables_without_a_rectangle(tmp_path):
    entry = rectangles.save_tensors({"w": torch.ones(2)}, tmp_path, "dense.safetensors")
    assert entry.table is None
    assert entry.bytes == os.stat(tmp_path / "dense.safetensors").st_size  # noqa: PTH116
    verify_file(tmp_path, entry)
    assert rectangles.entries_of(rectangles.listed([entry])) == [entry]
