"""Row groups become the rows of a split: the right ones, under the log's names, with their keys."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing, parquet
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.splits import Split
from iak.pipeline.errors import BadLog
from tests.builders import (
    DAYS,
    EVERYTHING,
    draw_rows,
    partition,
    small_catalog,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()
FEED = Split(name="feed", first=None, last=None, where={"scene": ("feed",)}, slice=(0.0, 1.0))
HALF = Split(name="half", first=None, last=None, where={}, slice=(0.0, 0.5))
NINGBO = Split(
    name="ningbo", first=None, last=None, where={"region": ("ningbo",)}, slice=(0.0, 1.0)
)


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [7, 5]), ("hangzhou", DAYS[0], [6])])
    return tmp_path


def everything(log, split=EVERYTHING, catalog=CATALOG):
    return parquet.select(snapshot_of(log, catalog), split, catalog)


def whole(selection, file=0, group=0, **changes):
    rows = selection.snapshot.files[file].group_rows[group]
    return Piece(**({"file": file, "group": group, "start": 0, "stop": rows} | changes))


def test_where_the_footer_decides_no_column_is_read(log, monkeypatch):
    snapshot = snapshot_of(log, CATALOG)
    monkeypatch.setattr(type(snapshot), "open", lambda *_: pytest.fail("a file was opened"))
    assert parquet.select(snapshot, EVERYTHING, CATALOG).groups == ((0, 0, 6), (1, 0, 7), (1, 1, 5))
    assert parquet.select(snapshot, NINGBO, CATALOG).groups == ((1, 0, 7), (1, 1, 5))


@pytest.mark.parametrize("split", [FEED, HALF], ids=["where", "slice"])
def test_counts_are_those_of_the_rows_that_are_read(log, split):
    selection = everything(log, split)
    for file, group, count in selection.groups:
        raw = parquet.read_piece(selection, whole(selection, file, group), CATALOG)
        assert len(raw.rows) == count > 0
    assert selection.rows < everything(log).rows


def test_splits_that_are_counted_together_have_the_rows_of_each_alone(log, monkeypatch):
    snapshot = snapshot_of(log, CATALOG)
    chosen = [EVERYTHING, FEED, NINGBO, HALF]
    alone = {split.name: parquet.select(snapshot, split, CATALOG) for split in chosen}
    reads, real = [], pq.ParquetFile.read_row_group

    def read_row_group(opened, group, **settings):
        reads.append(group)
        return real(opened, group, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    assert parquet.select_each(snapshot, chosen, CATALOG) == alone
    groups = [group for file in snapshot.files for group in range(len(file.group_rows))]
    assert reads == groups, "each row group once, whatever the number of splits"


@given(start=st.integers(0, 7), stop=st.integers(0, 7))
def test_a_piece_is_a_part_of_its_row_groups_selected_rows(tmp_path_factory, start, stop):
    log = tmp_path_factory.mktemp("log")
    write_log(log, [("ningbo", DAYS[0], [7])])
    selection = everything(log)
    all_ids = parquet.read_piece(selection, whole(selection), CATALOG).rows.column("event_id")
    piece = whole(selection, start=start, stop=max(start, stop))
    raw = parquet.read_piece(selection, piece, CATALOG)
    assert raw.rows.column("event_id").to_pylist() == all_ids.to_pylist()[start : max(start, stop)]
    assert len(raw.identity) == len(raw.rows)


@given(groups=st.lists(st.integers(0, 7), min_size=1, max_size=4))
def test_pieces_that_are_read_ahead_come_in_order_with_the_rows_of_each(tmp_path_factory, groups):
    log = tmp_path_factory.mktemp("log")
    write_log(log, [("ningbo", DAYS[0], groups)])
    selection = everything(log)
    chosen = [whole(selection, group=group) for group in range(len(groups))]
    ahead = list(parquet.read_ahead(selection, chosen, CATALOG))
    for raw, piece in zip(ahead, chosen, strict=True):
        alone = parquet.read_piece(selection, piece, CATALOG)
        assert raw.rows.column("event_id").equals(alone.rows.column("event_id"))
        assert np.array_equal(raw.identity, alone.identity)


def test_a_piece_that_cannot_be_read_ahead_is_an_error_after_the_pieces_before_it(log):
    selection = everything(log)
    gone = log / selection.snapshot.files[0].path
    gone.unlink()
    ahead = parquet.read_ahead(selection, [whole(selection, 1), whole(selection, 0)], CATALOG)
    assert len(next(ahead).rows) == 7
    with pytest.raises(BadLog, match="cannot be opened"):
        next(ahead)


def test_rows_bring_the_values_of_their_folders(log):
    selection = everything(log)
    rows = parquet.read_piece(selection, whole(selection, 1), CATALOG).rows
    assert rows.column("region").to_pylist() == ["ningbo"] * 7
    assert rows.column("dt").to_pylist() == [DAYS[0]] * 7


def test_a_row_is_known_by_its_id_wherever_it_lies(log):
    selection = everything(log)
    raw = parquet.read_piece(selection, whole(selection, 1, 1), CATALOG)
    assert raw.identity.tolist() == hashing.keys_of(raw.rows.column("event_id")).tolist()
    snapshot = selection.snapshot
    keys = parquet.row_keys(snapshot, snapshot.files[1], 1, CATALOG)
    assert keys.tolist() == raw.identity.tolist()


def test_without_an_id_a_row_is_known_by_its_position_in_its_file(log):
    catalog = small_catalog(log__row_id=None)
    selection = everything(log, catalog=catalog)
    raw = parquet.read_piece(selection, whole(selection, 1, 1), catalog)
    file_key = hashing.key_of_text(selection.snapshot.files[1].path)
    assert raw.identity.tolist() == hashing.keys_of_positions(file_key, 7, 5).tolist()


def test_an_optional_column_that_a_file_lacks_is_null(log):
    features = [
        {"kind": "categorical", "name": "item", "column": "item_id"},
        {"kind": "categorical", "name": "coupon", "optional": True},
    ]
    catalog = small_catalog(features=features, tables={})
    selection = everything(log, catalog=catalog)
    rows = parquet.read_piece(selection, whole(selection), catalog).rows
    assert rows.column("coupon").null_count == len(rows)


def test_selected_columns_come_with_the_partition_and_read_nothing_where_it_says_all(
    log, monkeypatch
):
    selection = everything(log, FEED)
    rows = parquet.selected_columns(selection, 1, 0, ("event_id", "region"), CATALOG)
    (count,) = [n for file, group, n in selection.groups if (file, group) == (1, 0)]
    assert len(rows) == count
    assert set(rows.column("region").to_pylist()) == {"ningbo"}
    monkeypatch.setattr(type(selection.snapshot), "open", lambda *_: pytest.fail("opened"))
    (row,) = parquet.selected_columns(selection, 1, 0, ("region", "dt"), CATALOG).to_pylist()
    assert (row["region"], row["dt"]) == ("ningbo", DAYS[0])


def test_a_column_is_read_one_row_group_at_a_time(log):
    snapshot = snapshot_of(log, CATALOG)
    parts = list(parquet.read_column(snapshot, snapshot.files[1], "click"))
    assert [len(part) for part in parts] == [7, 5]


def test_columns_are_read_whether_the_catalogue_names_them_or_not(tmp_path):
    rows = draw_rows(4).append_column("extra", pa.array([1, 2, 3, 4]))
    write_file(tmp_path / partition("ningbo", DAYS[0]) / "a.parquet", rows)
    snapshot = snapshot_of(tmp_path, CATALOG)
    read = parquet.read_columns(snapshot, snapshot.files[0], 0, ("extra",), CATALOG)
    assert read.column("extra").to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize("codes", [[0, 5], [-1, 0]])
def test_codes_outside_their_dictionary_are_refused(codes):
    column = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), ["a", "b"], safe=False)
    with pytest.raises(pa.ArrowInvalid, match="of 2 words"):
        parquet.refuse_broken(pa.table({"word": column}))


def test_sound_codes_and_nulls_pass():
    column = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int32()), ["a", "b"])
    empty = pa.DictionaryArray.from_arrays(pa.array([None], pa.int32()), pa.array([], pa.string()))
    parquet.refuse_broken(pa.table({"word": column}))
    parquet.refuse_broken(pa.table({"word": empty}))


TRUTH = {name: pa.array(np.linspace(0, 1, 7)) for name in parquet.TRUTH}


def test_the_truth_of_a_planted_log_is_read_beside_its_rows(tmp_path):
    catalog = small_catalog()
    where = f"{partition('ningbo', DAYS[0])}/a.parquet"
    write_file(tmp_path / "events" / where, draw_rows(7))
    write_file(tmp_path / "truth" / where, pa.table(TRUTH))
    selection = everything(tmp_path / "events")
    truth = parquet.select_all(snapshot_of_truth(tmp_path / "truth"), catalog).snapshot
    raw = parquet.read_piece(selection, whole(selection, start=2, stop=5), catalog, truth=truth)
    assert raw.truth.column("p_click").to_pylist() == TRUTH["p_click"].to_pylist()[2:5]


def snapshot_of_truth(root):
    from iak.pipeline.data.logs import take_snapshot

    return take_snapshot(str(root), partition_keys=("region", "dt"))


def test_a_truth_of_other_row_groups_is_refused(tmp_path):
    where = f"{partition('ningbo', DAYS[0])}/a.parquet"
    write_file(tmp_path / "events" / where, draw_rows(7))
    write_file(tmp_path / "truth" / where, pa.table(TRUTH), [4, 3])
    selection = everything(tmp_path / "events")
    truth = snapshot_of_truth(tmp_path / "truth")
    with pytest.raises(BadLog, match="no truth with the same row groups"):
        parquet.read_piece(selection, whole(selection), CATALOG, truth=truth)


@given(st.lists(st.integers(0, 9), unique=True).map(sorted))
def test_neighbours_are_taken_without_a_copy_and_others_are_picked(indices):
    rows = pa.record_batch({"n": pa.array(range(10))})
    taken = parquet.take_rows(rows, np.array(indices, np.int64))
    assert taken.column("n").to_pylist() == indices
