"""A partition key's value inside a file counts before the name of the file's folder."""

import datetime as dt
from collections import Counter
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import parquet, partitions
from iak.pipeline.data.check import check_log
from iak.pipeline.data.file_problems import null_words
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.splits import Split
from iak.pipeline.data.view import open_log
from iak.schemas.log import Catalog
from tests.builders import (
    DAYS,
    EVERYTHING,
    batch_of,
    draw_rows,
    encoding_of,
    rows_in_order,
    small_catalog,
    snapshot_of,
    write_file,
)

CATALOG = small_catalog()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__HIVE_DEFAULT_PARTITION__", None),
        ("__DEFAULT_PARTITION__", None),
        ("null", "null"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%20b", "a b"),
        ("%C3%A4", "ä"),
        ("2026-10-01 00%3A00%3A00", "2026-10-01 00:00:00"),
        ("", ""),
    ],
)
def test_a_folders_name_stands_for_a_value(name, value):
    assert partitions.value_of(name) == value


def stamps(*texts: str, unit: str = "us", tz: str | None = None) -> pa.Array:
    moments = [dt.datetime.fromisoformat(text) for text in texts]
    return pa.array(moments, pa.timestamp(unit, tz))


@pytest.mark.parametrize(
    ("column", "folder", "values", "others"),
    [
        pytest.param(pa.array(["a", "a"]), "a", ["a", "a"], 0, id="agrees"),
        pytest.param(pa.array(["a b", "a b"]), "a+b", ["a b", "a b"], 2, id="a space as plus"),
        pytest.param(pa.array(["a", None, "b"]), "a", ["a", None, "b"], 2, id="row by row"),
        pytest.param(pa.array([None, None], pa.string()), "null", [None, None], 0, id="null word"),
        pytest.param(pa.array(["null"]), "null", ["null"], 0, id="the word null"),
        pytest.param(pa.array([None, "x"]), None, [None, "x"], 1, id="null folder"),
        pytest.param(pa.array([1, 1, 2]), "01", ["01", "01", "2"], 1, id="a number's digits"),
        pytest.param(pa.array([7], pa.int8()), "north", ["7"], 1, id="folder is not a number"),
        pytest.param(pa.array([Decimal("1.50")]), "1.5", ["1.5"], 0, id="decimal"),
        pytest.param(pa.array([True, False]), "true", ["true", "false"], 1, id="bool"),
        pytest.param(pa.array([dt.date(2026, 10, 1)]), "2026-10-01", ["2026-10-01"], 0, id="date"),
        pytest.param(stamps("2026-10-01"), "2026-10-01", ["2026-10-01"], 0, id="midnight"),
        pytest.param(
            stamps("2026-10-01 05:00", unit="ns"), "2026-10-01", ["2026-10-01 05:00:00"], 1, id="5h"
        ),
        pytest.param(
            stamps("2026-10-01T00:00+00:00", tz="UTC"), "x", ["2026-10-01 00:00:00"], 1, id="zoned"
        ),
        pytest.param(pa.array(["a", "b"]).dictionary_encode(), "b", ["a", "b"], 1, id="words"),
        pytest.param(pa.array([b"a"]), "a", ["a"], 0, id="bytes"),
        pytest.param(pa.array(["a"], pa.string_view()), "a", ["a"], 0, id="view"),
        pytest.param(pa.array(["a"], pa.large_string()), "b", ["a"], 1, id="large"),
        pytest.param(pa.array([], pa.string()), "b", [], 0, id="no rows"),
    ],
)
def test_the_columns_value_counts_and_disagreement_is_counted(column, folder, values, others):
    resolved = partitions.resolve(column, folder)
    assert resolved.type == pa.dictionary(pa.int32(), pa.string())
    assert resolved.to_pylist() == values
    assert partitions.disagreements(resolved, folder) == others


def write(root: Path, folder: str, day: str, rows: pa.Table) -> pa.Table:
    number = len(list(root.rglob("*.parquet")))
    write_file(root / f"region={folder}/dt={day}/part-{number}.parquet", rows, [len(rows)])
    return rows


def with_region(count: int, region: str | None, first: int = 0) -> pa.Table:
    rows = draw_rows(count, first=first)
    return rows.append_column("region", pa.array([region] * count, pa.string()))


def ids_of(root: Path, split: Split, catalog: Catalog = CATALOG) -> list[int]:
    selection = parquet.select(snapshot_of(root, catalog), split, catalog)
    pieces = pieces_of(selection, rank=0, world=1)
    parts = [parquet.read_piece(selection, piece, catalog).rows for piece in pieces]
    return sorted(event for part in parts for event in part.column("event_id").to_pylist())


def where(region: str) -> Split:
    return Split(name="w", first=None, last=None, where={"region": (region,)}, slice=(0.0, 1.0))


def test_a_split_finds_its_rows_whatever_their_folder_is_called(tmp_path):
    write(tmp_path, "a+b", DAYS[0], with_region(4, "a b"))
    write(tmp_path, "c", DAYS[0], with_region(3, "c", first=4))
    write(tmp_path, "null", DAYS[0], with_region(2, None, first=7))
    assert ids_of(tmp_path, where("a b")) == [0, 1, 2, 3]
    assert ids_of(tmp_path, where("a+b")) == []
    assert ids_of(tmp_path, where("c")) == [4, 5, 6]
    assert ids_of(tmp_path, where("null")) == []


def test_a_folder_that_its_name_prunes_is_opened_where_the_files_know_better(tmp_path):
    root = tmp_path / "events"
    write(root, "a+b", DAYS[0], with_region(4, "a b"))
    write(root, "c", DAYS[0], with_region(3, "c", first=4))
    write(root, "d", DAYS[0], with_region(3, "c", first=7))
    for region, folders in (("a b", ["a+b"]), ("c", ["c", "d"])):
        catalog = small_catalog(splits={"tune": {"where": {"region": [region]}}})
        view = open_log(catalog, str(tmp_path), wanted=["tune"])
        assert [dict(f.partition)["region"] for f in view.snapshot.files] == folders
        assert view.selections["tune"].rows == sum(f.rows for f in view.snapshot.files)


def test_a_date_inside_the_file_counts_before_the_folders(tmp_path):
    root = tmp_path / "events"
    for day, first in ((0, 0), (1, 10)):
        days = pa.array([dt.date(2026, 10, 1 + day)] * 4 + [dt.date(2026, 10, 3)])
        write(root, "a", DAYS[day], draw_rows(5, first=first).append_column("dt", days))
    write(
        root,
        "a",
        DAYS[2],
        draw_rows(2, first=20).append_column("dt", pa.array([None] * 2, pa.date32())),
    )
    catalog = small_catalog(splits={"test": {"dates": ["2026-10-03", "2026-10-03"]}})
    view = open_log(catalog, str(tmp_path), wanted=["test"])
    assert view.selections["test"].rows == 2
    window = Split(
        name="w",
        first=dt.date(2026, 10, 1),
        last=dt.date(2026, 10, 2),
        where={},
        slice=(0.0, 1.0),
    )
    assert ids_of(root, window) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert ids_of(root, EVERYTHING) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21]


def test_disagreement_is_counted_where_rows_are_read_and_where_they_are_checked(tmp_path):
    root = tmp_path / "events"
    write(root, "a+b", DAYS[0], with_region(4, "a b"))
    write(root, "c", DAYS[0], with_region(3, "c", first=4))
    counts: Counter[str] = Counter()
    rows = batch_of(with_region(9, "c"))
    worker = Reader(
        selection=parquet.select(snapshot_of(root, CATALOG), EVERYTHING, CATALOG),
        catalog=CATALOG,
        encoding=encoding_of(rows, CATALOG),
        rank=0,
        world=1,
    )
    assert sum(len(part) for part in rows_in_order(worker, counts)) == 7
    message = "value inside the file differs from the folder's in region"
    assert counts[f"warn: {message}"] == 4
    report = check_log(CATALOG, str(tmp_path), sample_rows=1000)
    (finding,) = [f for f in report.findings if f.what == message]
    assert (finding.level, finding.count, finding.column) == ("warn", 4, "region")
    assert finding.file.startswith("region=a+b/")


def test_a_folder_called_null_is_warned_of_where_no_column_tells_what_it_is(tmp_path):
    root = tmp_path / "events"
    write(root, "null", DAYS[0], draw_rows(4))
    snapshot = take_snapshot(str(root), partition_keys=("region", "dt"))
    assert null_words(snapshot) == {"region": 4}
    report = check_log(CATALOG, str(tmp_path), sample_rows=1000)
    (finding,) = [f for f in report.findings if "read as the word null" in f.what]
    assert (finding.level, finding.count, finding.column) == ("warn", 4, "region")
    write_file(root / "region=null" / f"dt={DAYS[0]}" / "part-0.parquet", with_region(4, None))
    report = check_log(CATALOG, str(tmp_path), sample_rows=1000)
    assert [f.count for f in report.findings if "null domain key" in f.what] == [4]
    assert not null_words(take_snapshot(str(root), partition_keys=("region", "dt")))


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cs"]),
    min_size=1,
    max_size=6,
).filter(lambda n: n not in partitions.NULL_FOLDERS)


@given(NAMES, st.sampled_from([quote, quote_plus]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_value_survives_its_folders_escapes_where_the_column_is_inside(
    tmp_path_factory, name, escape, is_inside
):
    root = tmp_path_factory.mktemp("log")
    rows = with_region(3, name) if is_inside else draw_rows(3)
    write(root, escape(name, safe=""), DAYS[0], rows)
    selection = parquet.select(snapshot_of(root, CATALOG), EVERYTHING, CATALOG)
    (piece,) = pieces_of(selection, rank=0, world=1)
    result = parquet.read_piece(selection, piece, CATALOG)
    expected = name if is_inside or escape is quote else quote_plus(name, safe="")
    if is_inside or escape is quote:
        assert result.rows.column("region").to_pylist() == [expected] * 3
        assert ids_of(root, where(name)) == [0, 1, 2]
    if escape is quote:
        assert not result.counts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.parquet", "train"),
        ("train-00000-of-00004.parquet", "train"),
        ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
        ("test_part_3.snappy.parquet", "test"),
        ("shop_part1_train.parquet", "shop_part1_train"),
        ("2026-10-01.parquet", "2026-10-01"),
        ("day_8.parquet", "day_8"),
    ],
)
def test_a_files_name_is_a_value_without_its_number_at_the_end(name, value):
    assert partitions.value_of_file(name) == value
