"""A snapshot names files by what they hold, and opens only those that are still the same."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.content import FileContent
from iak.pipeline.data.snapshot import (
    LogFile,
    Projection,
    Snapshot,
    Unreadable,
    packed,
    unpacked,
)
from iak.pipeline.errors import BadLog
from tests.builders import draw_rows, small_catalog, snapshot_of, write_file

POSITIONS = st.lists(st.integers(0, 10**6), max_size=50, unique=True).map(sorted)


def log_file(**changes):
    fields = {
        "path": "region=a/part-0.parquet",
        "partition": (("region", "a"), ("dt", "1")),
        "group_rows": (4, 3),
        "size_bytes": 99,
        "listed": "1" * 64,
        "columns": (("n", pa.int64()), ("dt", pa.string())),
    }
    return LogFile(**(fields | changes))


@given(POSITIONS)
def test_deleted_positions_come_back_from_few_bytes(positions):
    assert unpacked(packed(np.array(positions, np.int64))).tolist() == positions


def deleting(positions, stored_rows, **fields):
    return Projection(
        columns=fields.pop("columns", None),
        deleted=packed(np.array(positions, np.int64)),
        stored_rows=stored_rows,
        **fields,
    )


@given(st.sets(st.integers(0, 11)))
def test_the_rows_that_are_left_are_those_that_no_one_deleted(positions):
    stored = (5, 0, 7)
    ends = [(0, 5), (5, 5), (5, 12)]
    left = tuple(end - start - sum(start <= p < end for p in positions) for start, end in ends)
    file = log_file(group_rows=left, projection=deleting(sorted(positions), stored))
    assert np.flatnonzero(~file.kept_rows()).tolist() == sorted(positions)
    for group, (start, end) in enumerate(ends):
        kept = file.kept(group)
        inside = [p - start for p in sorted(positions) if start <= p < end]
        assert (kept is None) == (not inside)
        if kept is not None:
            assert np.flatnonzero(~kept).tolist() == inside


def test_a_plain_file_has_all_its_rows():
    file = log_file()
    assert (file.rows, file.stored_rows, file.kept(0), file.constants) == (7, (4, 3), None, {})
    assert file.kept_rows().all()


def test_columns_are_read_under_the_names_of_the_file():
    projection = deleting([], (), columns=(("n", "col-1"), ("c", "col-2")))
    file = log_file(projection=projection)
    assert file.stored_names(["n", "missing"]) == {"n": "col-1"}
    assert log_file().stored_names(["n", "missing"]) == {"n": "n"}
    assert log_file(columns=()).stored_names(["n"]) == {"n": "n"}, "a footer that was not read"


def test_a_constant_is_no_column_of_the_file():
    projection = deleting([], (), constants=(("n", pa.scalar(7)),))
    file = log_file(projection=projection)
    assert file.stored_names(["n", "dt"]) == {"dt": "dt"}
    assert file.constants["n"].as_py() == 7


def test_a_key_that_is_a_column_too_is_no_exact_partition():
    assert log_file(inside=("dt",)).exact_partition == {"region": "a"}


CONTENT = FileContent(version="etag-1")


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"listed": "2" * 64}, True),
        ({"path": "other.parquet"}, True),
        ({"content": FileContent(version="etag-2")}, False),
        ({"partition": (("region", "b"), ("dt", "1"))}, False),
        ({"columns": (("n", pa.int32()), ("dt", pa.string()))}, False),
        ({"inside": ("dt",)}, False),
        ({"group_rows": (7,)}, False),
        ({"projection": deleting([2], (4, 3))}, False),
    ],
)
def test_a_fingerprint_is_of_the_content_and_of_how_it_is_read(changes, is_same):
    before = log_file(content=CONTENT).fingerprint
    after = log_file(**({"content": CONTENT} | changes)).fingerprint
    assert (before == after) == is_same


def test_a_file_whose_content_was_not_read_is_known_by_its_listing():
    assert log_file().fingerprint == "1" * 64


@pytest.mark.parametrize(
    "changes",
    [
        {"deleted": packed(np.array([3]))},
        {"columns": (("n", "x"),)},
        {"constants": (("c", pa.scalar(1, pa.int64())),)},
    ],
)
def test_a_projection_digest_changes_with_all_that_changes_rows(changes):
    plain = {"columns": None, "constants": (("c", pa.scalar(1, pa.int32())),)}
    assert Projection(**plain).digest != Projection(**(plain | changes)).digest


def test_the_snapshot_is_named_by_paths_and_contents():
    one = Snapshot(uri="/a", files=(log_file(), log_file(path="b")))
    assert one.fingerprint == Snapshot(uri="/elsewhere", files=one.files).fingerprint
    assert one.fingerprint != Snapshot(uri="/a", files=one.files[::-1]).fingerprint
    assert one.rows == 14


@pytest.mark.parametrize(("group_rows", "rows"), [(None, None), ((2, 3), 5), ((), 0)])
def test_rows_of_an_unreadable_file_are_known_where_its_footer_is(group_rows, rows):
    assert Unreadable(path="a", reason="r", group_rows=group_rows).rows == rows


@pytest.fixture
def log(tmp_path):
    write_file(tmp_path / "region=a/dt=2026-10-01/a.parquet", draw_rows(9), [5, 4])
    return tmp_path


def test_text_comes_as_dictionaries_and_numbers_plain(log):
    snapshot = snapshot_of(log, small_catalog())
    group = snapshot.open(snapshot.files[0]).read_row_group(1, columns=["user_id", "item_id"])
    assert pa.types.is_dictionary(group.schema.field("user_id").type)
    assert group.schema.field("item_id").type == pa.int64()
    assert len(group) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "cannot be opened, though it was whole"),
        (lambda path: path.write_bytes(b"PAR1"), "cannot be opened"),
        (lambda path: write_file(path, draw_rows(9), [4, 5]), "changed after the run listed it"),
        (lambda path: write_file(path, draw_rows(9, seed=1), [5, 4]), "changed after the run"),
    ],
    ids=["gone", "cut", "other groups", "other rows"],
)
def test_a_file_that_is_another_one_now_is_refused_by_name(log, change, says):
    snapshot = snapshot_of(log, small_catalog())
    change(next(log.rglob("a.parquet")))
    with pytest.raises(BadLog, match=f"a.parquet {says}"):
        snapshot.open(snapshot.files[0])


def test_a_tables_file_may_lie_elsewhere(log, tmp_path):
    snapshot = Snapshot(uri=str(log), files=())
    assert snapshot.locate("region=a/x.parquet")[1] == f"{log}/region=a/x.parquet"
    assert snapshot.locate(f"file://{tmp_path}/y.parquet")[1] == f"{tmp_path}/y.parquet"
