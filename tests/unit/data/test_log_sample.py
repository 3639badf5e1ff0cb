"""What is read of a folder that nobody described: names of folders, footers, some rows."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.log_sample import (
    evenly,
    innermost_folder,
    kind_of,
    numbers,
    read_sample,
)
from iak.pipeline.errors import BadLog, BadRequest
from tests.unit.data.shop import shop, write


def test_a_folder_around_the_folder_of_events_is_looked_through(tmp_path):
    write(tmp_path, shop(5), folder="set/events/r=a")
    (tmp_path / "set" / "README.md").write_text("notes")
    assert innermost_folder(str(tmp_path)).endswith("set/events")


def test_a_folder_without_rows_is_refused_in_words(tmp_path):
    with pytest.raises(BadRequest, match="no folder"):
        read_sample(str(tmp_path / "nope"), rows=10)
    with pytest.raises(BadLog, match="no Parquet file"):
        read_sample(str(tmp_path), rows=10)


def test_a_sample_keeps_neighbours_together_and_is_about_as_long_as_wanted(tmp_path):
    write(tmp_path, shop(20_000))
    rows = read_sample(str(tmp_path), rows=2_000).rows
    steps = np.diff(rows.column("event_id").to_numpy())
    assert 1_500 <= len(rows) <= 3_000
    assert (steps == 1).mean() > 0.9


@pytest.mark.parametrize(
    ("actual", "kind"),
    [
        (pa.bool_(), "bool"),
        (pa.uint16(), "whole"),
        (pa.float16(), "float"),
        (pa.decimal128(9, 2), "float"),
        (pa.string_view(), "text"),
        (pa.dictionary(pa.int8(), pa.large_string()), "text"),
        (pa.timestamp("ns", "UTC"), "time"),
        (pa.date32(), "time"),
        (pa.date64(), "time"),
        (pa.null(), "null"),
        (pa.list_(pa.int8()), "list of whole"),
        (pa.list_(pa.string(), 3), "list of text"),
        (pa.large_list(pa.struct({"a": pa.int8()})), "list of other"),
        (pa.uuid(), "text"),
        (pa.binary(), "text"),  # it may be text; other bytes are left out by their values
        (pa.duration("s"), "time"),  # since the start of the log
        (pa.time32("s"), "other"),
        (pa.map_(pa.string(), pa.int8()), "other"),
    ],
)
def test_a_type_serves_as_one_kind(actual, kind):
    assert kind_of(actual) == kind


@given(count=st.integers(1, 500), most=st.integers(1, 60))
def test_chosen_indices_are_spread_evenly_and_the_last_is_one(count, most):
    chosen = evenly(count, most)
    assert len(chosen) == min(count, most)
    assert chosen[-1] == count - 1 or most == 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([1, None, 3]), [1, np.nan, 3]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([np.inf, -np.inf, 0.5]), [np.nan, np.nan, 0.5]),
        (pa.array([1_500], pa.timestamp("ms")), [1.5]),
        (pa.array([2_000_000_001], pa.timestamp("ns")), [2.0]),
        (pa.array([2, None], pa.date32()), [172_800, np.nan]),
    ],
)
def test_numbers_times_and_truths_become_floats_and_holes_nan(column, values):
    np.testing.assert_array_equal(numbers(pa.chunked_array([column])), values)


def test_columns_of_other_types_or_lacking_are_told_and_read_as_null(tmp_path):
    plain = shop(200)
    write(tmp_path, plain, folder="dt=1")
    write(tmp_path, plain, folder="dt=2")
    write(tmp_path, plain.drop_columns(["price"]), folder="dt=3")
    index = plain.schema.get_field_index("item_id")
    text = plain.set_column(index, "item_id", pa.array(["x"] * 200))
    write(tmp_path, text, folder="dt=4")
    sample = read_sample(str(tmp_path), rows=10_000)
    assert sample.uneven == {
        "price": "1 of 4 files lack it",
        "item_id": "its type differs over files: int64 in 3, string in 1",
    }
    assert sample.rows.column("item_id").null_count == 200
    assert sample.rows.column("price").null_count == 200
    assert sample.partitions == {"dt": ("1", "2", "3", "4")}


def test_a_column_of_two_types_that_files_lack_too_is_of_two_types(tmp_path):
    write(tmp_path, shop(20), folder="dt=1")
    write(tmp_path, shop(20).drop_columns(["item_id"]), folder="dt=2")
    write(tmp_path, shop(20, item_id=["x"] * 20), folder="dt=3")
    write(tmp_path, shop(20), folder="dt=4")
    uneven = read_sample(str(tmp_path), rows=100).uneven
    assert uneven["item_id"] == "its type differs over files: int64 in 2, string in 1"


def test_a_row_group_that_cannot_be_decoded_is_left_out(tmp_path):
    write(tmp_path, shop(300), folder="dt=1")
    path = tmp_path / "dt=2" / "part-0.parquet"
    write(tmp_path, shop(300), folder="dt=2")
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    rows = read_sample(str(tmp_path), rows=10_000).rows
    assert set(rows.column("dt").to_pylist()) == {"1"}


def test_a_log_of_which_nothing_can_be_decoded_is_refused(tmp_path):
    write(tmp_path, shop(300))
    path = tmp_path / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(BadLog, match="the data are damaged"):
        read_sample(str(tmp_path), rows=100)


def test_floats_are_ids_where_the_name_says_so_and_floats_hold_them(tmp_path):
    whole = np.arange(500, dtype=float)
    table = shop(500).append_column("Käufer ID", pa.array(whole))
    table = table.append_column("price_eur", pa.array(whole))
    table = table.append_column("tweet_id", pa.array(2.0**60 + whole * 4096))
    rows = read_sample(str(write(tmp_path, table)), rows=500).rows
    kinds = {name: kind_of(rows.schema.field(name).type) for name in rows.column_names}
    assert (kinds["Käufer ID"], kinds["price_eur"], kinds["tweet_id"]) == (
        "whole",
        "float",
        "float",
    )


def test_the_index_that_pandas_wrote_is_not_sampled(tmp_path):
    table = shop(50).append_column("__index_level_0__", pa.array(np.arange(50)))
    sample = read_sample(str(write(tmp_path, table)), rows=50)
    assert "__index_level_0__" not in sample.rows.column_names
    assert list(sample.unread) == ["__index_level_0__"]


def test_fields_of_structs_are_columns_of_the_sample(tmp_path):
    users = pa.array(
        [{"id": n, "home": {"city": f"c{n % 3}"}} if n % 4 else None for n in range(50)]
    )
    sample = read_sample(str(write(tmp_path, shop(50).append_column("user", users))), rows=50)
    assert sample.rows.column("user.id").to_pylist()[:3] == [None, 1, 2]
    assert sample.rows.column("user.home.city").to_pylist()[:3] == [None, "c1", "c2"]
    assert set(sample.unread) == {"user", "user.home"}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("train.csv", "train.csv is text: write it as Parquet, with names and types"),
        ("a/train.jsonl.gz", "polars.read_ndjson(FILE)"),
        ("train.bin", "Give the folder that holds the log's files"),
    ],
)
def test_files_of_text_are_refused_with_the_way_to_parquet(name, remedy, tmp_path):
    path = tmp_path / "log" / name
    path.parent.mkdir(parents=True)
    path.write_text("1,2")
    with pytest.raises(BadLog, match=re.escape(remedy)):
        read_sample(str(tmp_path / "log"), rows=10)


def test_a_file_is_refused_with_its_folder(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(BadRequest, match=f"is a file; give its folder, {tmp_path}"):
        read_sample(str(path), rows=10)
