"""Lists and times that are text are read as those of an Arrow type are."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import contract, event_dates, parquet
from iak.pipeline.data.features import raw_number
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.task_labels import label_of
from iak.pipeline.data.written import WrittenList, WrittenNumber, WrittenTime
from iak.pipeline.errors import BadLog
from tests.builders import (
    EVERYTHING,
    draw_rows,
    partition,
    small_catalog,
    snapshot_of,
    write_file,
)

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)
TEXTS = st.text("ab 7配", max_size=4).map(str.strip).filter(bool)


@given(lists=st.lists(st.none() | st.lists(TEXTS, max_size=5), max_size=9),
       separator=st.sampled_from(["|", ",", ", ", "^A"]), blanks=st.booleans())  # fmt: skip
def test_separated_texts_are_the_lists_that_were_joined(lists, separator, blanks):
    around = separator + separator if blanks else ""  # empty ids at either end

    def joined(own):
        return own if own is None else around + separator.join(own) + around

    texts = pa.array([joined(own) for own in lists], pa.string())
    written = WrittenList(separator=separator, whole=False)
    assert written.read(texts).type == pa.list_(pa.string())
    assert written.read(texts).to_pylist() == lists
    assert written.read(texts.dictionary_encode()).to_pylist() == lists
    assert written.read(texts[1:]).to_pylist() == lists[1:]


@given(lists=st.lists(st.none() | IDS, max_size=9))
def test_whole_ids_are_read_as_numbers(lists):
    joined = pa.array([None if own is None else " ".join(map(str, own)) for own in lists])
    read = WrittenList(separator=" ", whole=True).read(joined.cast(pa.string()))
    assert read.type == pa.list_(pa.int64())
    assert read.to_pylist() == lists


def test_a_list_stays_as_it_is_and_an_id_that_is_no_number_is_refused():
    written = WrittenList(separator="|", whole=True)
    lists = pa.array([[1, 2], None])
    assert written.read(lists) is lists
    with pytest.raises(pa.ArrowInvalid, match="x7"):
        written.read(pa.array(["1|x7"]))


MOMENT = datetime(2026, 10, 5, 21, 30, 59)


@pytest.mark.parametrize(
    ("written", "values", "moment"),
    [
        ("%Y-%m-%d %H:%M:%S", ["2026-10-05 21:30:59"], MOMENT),
        ("%m/%d/%Y %I:%M:%S %p", ["10/5/2026 9:30:59 PM"], MOMENT),
        ("%Y%m%d", ["20261005"], MOMENT.replace(hour=0, minute=0, second=0)),
        ("%Y%m%d", [20261005], MOMENT.replace(hour=0, minute=0, second=0)),
        ("%y%m%d%H", [26100521], MOMENT.replace(minute=0, second=0)),
        ("%Y-%m-%dT%H:%M:%S%z", ["2026-10-05T21:30:59+08:00"],
         (MOMENT - timedelta(hours=8)).replace(tzinfo=UTC)),
        ("iso", ["2026-10-05 21:30:59"], MOMENT),
        ("iso", ["2026-10-05T21:30:59.250"], MOMENT.replace(microsecond=250_000)),
        ("iso", ["2026-10-05"], MOMENT.replace(hour=0, minute=0, second=0)),
        ("iso", ["2026-10-05T21:30:59Z"], MOMENT.replace(tzinfo=UTC)),
        ("iso", ["2026-10-05 21:30:59 UTC"], MOMENT.replace(tzinfo=UTC)),
        ("iso", ["2026-10-05 21:30:59.250 UTC"], MOMENT.replace(microsecond=250_000, tzinfo=UTC)),
        ("iso", ["2026-10-05T21:30:59+08:00"],
         (MOMENT - timedelta(hours=8)).replace(tzinfo=UTC)),
    ],
)  # fmt: skip
def test_a_time_is_read_by_its_format(written, values, moment):
    read = WrittenTime(format=written).read(pa.array([*values, None]))
    assert pa.types.is_timestamp(read.type)
    assert read.to_pylist() == [moment, None]


def test_a_value_that_is_written_otherwise_is_no_time():
    read = WrittenTime(format="%Y%m%d").read(pa.array(["20261005", "5.10.2026", ""]))
    assert read.is_valid().to_pylist() == [True, False, False]
    assert WrittenTime(format="iso").read(pa.array(["2026-10-05", "soon"])).null_count == 1


@pytest.mark.parametrize(
    "value",
    [
        "0000-00-00 00:00:00",
        "2026-13-05 10:00",
        "2026-10-05 24:30",
        "2026-10-05Z",
        "2026-10-05T10:00+24:00",
        "2026-10-05 10:00-0560",
        "2026-02-31",
        "2026-09-31 21:30:59",
    ],
)
def test_an_impossible_time_is_none_and_the_others_stay(value):
    read = WrittenTime(format="iso").read(pa.array(["2026-10-05 21:30:59", value]))
    assert read.to_pylist() == [MOMENT, None]


@pytest.mark.parametrize(
    ("text", "separator", "ids"),
    [
        ("[1, 2, 3]", ",", ["1", "2", "3"]),
        ("['a', 'b']", ",", ["a", "b"]),
        ('["a","b c"]', ",", ["a", "b c"]),
        ("['a' 'b'\n 'c']", " ", ["a", "b", "c"]),
        ("[]", ",", []),
        (" [ ] ", ",", []),
        ("[PAD]|[UNK]", "|", ["[PAD]", "[UNK]"]),
        ("[PAD]", "|", ["[PAD]"]),
        ("'a','b'", ",", ["'a'", "'b'"]),
    ],
)
def test_a_printed_list_is_read_without_its_brackets_and_quotes(text, separator, ids):
    texts = pa.array([None, text, "x", text])
    read = WrittenList(separator=separator, whole=False).read(texts)
    assert read.to_pylist() == [None, ids, ["x"], ids]


@given(
    days=st.lists(st.tuples(st.integers(1970, 2068), st.integers(1, 12), st.integers(1, 31))),
    written=st.sampled_from(
        [
            "iso",
            "%Y%m%d",
            "%d. %B %Y %H:%M",
            "%m/%d/%y %I:%M %p",
            "%d%b%Y%%%H",
            "%Y-%m-%dT%H:%M%z",
            "%a %b %d %H:%M:%S %Y",
        ]
    ),
    zone=st.sampled_from(["+0000", "+1400", "-1130"]),
)
def test_a_day_that_its_month_lacks_is_no_time(days, written, zone):
    codes = "%Y-%m-%d %H:%M" if written == "iso" else written

    def text(year, month, day):
        shape = codes.replace("%d", f"{day:02}").replace("%z", zone)
        return datetime(year, month, 1, 23, 30).strftime(shape)

    def as_python_reads_it(text):
        try:
            time = datetime.strptime(text, codes)
        except ValueError:
            return None
        return time.astimezone(UTC) if time.tzinfo else time

    texts = [text(*day) for day in [(2026, 10, 5), *days]]
    read = WrittenTime(format=written).read(pa.array(texts))
    assert read.to_pylist() == [as_python_reads_it(text) for text in texts]


@pytest.mark.parametrize("written", ["iso", "%Y%m%d"])
def test_a_format_that_reads_nothing_is_refused_with_what_was_seen(written):
    with pytest.raises(pa.ArrowInvalid, match=r"does not read '5\.10\.2026'"):
        WrittenTime(format=written).read(pa.array([None, "5.10.2026"]))


def test_a_timestamp_stays_as_it_is_and_a_fraction_is_no_written_time():
    times = pa.array([MOMENT])
    assert WrittenTime(format="iso").read(times) is times
    catalog = written_catalog()
    schema = as_text(draw_rows(3)).schema
    at = schema.get_field_index("event_time")
    fractions = schema.set(at, pa.field("event_time", pa.float64()))
    problem = contract.schema_problem(fractions, catalog)
    assert problem.what == "event_time: double, expected written time"
    assert "event_time_format" in contract.type_advice(problem.expected)


@given(values=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=9),
       write=st.sampled_from([repr, "{:.6f}".format, "{:+.3e}".format, " {} ".format]))  # fmt: skip
def test_a_number_in_text_is_the_number_that_was_written(values, write):
    texts = pa.array([None if v is None else write(v) for v in values], pa.string())
    read = WrittenNumber().read(texts)
    assert read.type == pa.float64()
    assert read.to_pylist() == [None if v is None else float(write(v)) for v in values]
    assert WrittenNumber().read(texts.dictionary_encode()).equals(read)


@given(word=st.sampled_from([None, np.nan]))
def test_a_text_that_is_no_number_is_marked_and_numbers_stay_as_they_are(word):
    words = pa.array(["n/a", "nan", "inf", "1,5", "1.2.3", "0x1", "-", "1e", "", " ", ".5", "7."])
    read = WrittenNumber(word=word).read(words)
    assert repr(read.to_pylist()) == repr([word] * 8 + [None] * 2 + [0.5, 7.0])
    wholes = pa.array([1, None])
    assert WrittenNumber().read(wholes) is wholes


def test_text_is_a_number_only_where_the_catalogue_says_so():
    schema = draw_rows(1).schema
    in_text = schema.set(schema.get_field_index("price"), pa.field("price", pa.string()))
    problem = contract.schema_problem(in_text, small_catalog())
    assert problem.what == "price: string, expected number"
    assert "in_text = true" in contract.type_advice(problem.expected)
    features = [{"kind": "numeric", "name": "price", "in_text": True}]
    assert contract.schema_problem(in_text, small_catalog(features=features, tables={})) is None


def test_words_among_numbers_in_text_are_counted_and_read_as_a_missing_number_is():
    catalog = written_catalog()
    rows = as_text(draw_rows(6))
    at = rows.schema.get_field_index("price")
    texts = pa.array(["1.5", "n/a", "", None, " ", "null"])
    (batch,) = rows.set_column(at, "price", texts).to_batches()
    read = contract.rows_as_declared(batch, rows.schema.names, catalog)
    for key in catalog.log.partition_keys:
        read = read.append_column(key, pa.array(["a"] * len(read)))
    counts = contract.inspect(read, catalog).counts
    assert {b.name: n for b, n in counts.items() if b.column == "price"} == {
        "warn: text that is no number, NaN or infinite in price": 2
    }
    price = next(f for f in catalog.features if f.name == "price")
    assert np.isnan(raw_number(price, read)).tolist() == [False] + [True] * 5


# ------------------------------------------------ a whole log


def typed_catalog(**changes):
    """The small log, whose days come from event times and not from folders."""
    dated = {"log__date_key": None, "splits": {"tune": {"days": [0, 1]}}}
    return small_catalog(**(dated | changes))


def written_catalog(**changes):
    features = [
        feature
        | ({"separator": "|", "whole": True} if feature["kind"] == "list" else {})
        | ({"in_text": True} if feature["kind"] == "numeric" else {})
        for feature in small_catalog().model_dump(mode="json")["features"]
    ]
    return typed_catalog(features=features, log__event_time_format="%Y-%m-%d %H:%M:%S", **changes)


def as_text(rows):
    """The same rows, with histories, numbers and times in text."""
    lists = rows.column("hist").to_pylist()
    texts = [None if own is None else "|".join(str(v) for v in own) for own in lists]
    seconds = rows.column("event_time").combine_chunks().cast(pa.timestamp("s"))
    for name, column in {
        "hist": pa.array(texts, pa.string()),
        "price": rows.column("price").cast(pa.string()),
        "age": rows.column("age").cast(pa.string()),
        "event_time": pc.strftime(seconds, format="%Y-%m-%d %H:%M:%S"),
    }.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def without_null_ids(rows):
    """Lists without nulls inside, which a text cannot tell."""
    lists = [
        None if own is None else [v for v in own if v is not None]
        for own in rows.column("hist").to_pylist()
    ]
    column = pa.array(lists, pa.list_(pa.int64()))
    return rows.set_column(rows.schema.get_field_index("hist"), "hist", column)


def read_of(root, catalog):
    selection = parquet.select(snapshot_of(root, catalog), EVERYTHING, catalog)
    (piece,) = pieces_of(selection, rank=0, world=1)
    return parquet.read_piece(selection, piece, catalog).rows


def test_a_log_of_text_is_read_as_one_of_arrow_types(tmp_path):
    rows = without_null_ids(draw_rows(80))
    name = f"{partition('rome', '2026-10-01')}/part-00000.parquet"
    write_file(tmp_path / "typed" / name, rows)
    write_file(tmp_path / "written" / name, as_text(rows))
    typed = read_of(tmp_path / "typed", typed_catalog())
    written = read_of(tmp_path / "written", written_catalog())
    assert written.column("hist").to_pylist() == typed.column("hist").to_pylist()
    for numbers in ("price", "age"):
        floats = typed.column(numbers).cast(pa.float64()).fill_null(np.nan).to_numpy()
        in_text = written.column(numbers).fill_null(np.nan).to_numpy()
        assert np.array_equal(in_text, floats, equal_nan=True)
    seconds = written.column("event_time").cast(pa.timestamp("s")).cast(pa.int64())
    assert seconds.to_pylist() == typed.column("event_time").to_pylist()
    days = event_dates.read_dates(str(tmp_path / "written"), written_catalog())
    assert days[0] == event_dates.read_dates(str(tmp_path / "typed"), typed_catalog())[0]
    assert len(days[0].counted) == len(np.unique(rows.column("event_time").to_numpy() // 86_400))


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000)])
def test_unix_times_in_text_are_on_the_days_of_their_numbers(unit, per_second, tmp_path):
    rows = draw_rows(80)
    numbers = pc.multiply(rows.column("event_time"), per_second)
    name = f"{partition('rome', '2026-10-01')}/part-00000.parquet"
    catalogs = {
        "typed": typed_catalog(log__event_time_unit=unit),
        "written": typed_catalog(log__event_time_unit=unit, log__event_time_format="unix"),
    }
    for kind, column in (("typed", numbers), ("written", numbers.cast(pa.string()))):
        at = rows.schema.get_field_index("event_time")
        write_file(tmp_path / kind / name, rows.set_column(at, "event_time", column))
    days = [event_dates.read_dates(str(tmp_path / kind), c)[0] for kind, c in catalogs.items()]
    assert days[0] == days[1]
    assert days[0].counted
    # Files of both kinds are one log.
    assert event_dates.read_dates(str(tmp_path / "typed"), catalogs["written"])[0] == days[0]
    in_text = rows.schema.set(at, pa.field("event_time", pa.string()))
    problem = contract.schema_problem(in_text, catalogs["typed"])
    assert problem.what == "event_time: string, expected time"
    assert contract.schema_problem(in_text, catalogs["written"]) is None


def test_a_file_whose_ids_are_no_numbers_is_named_with_its_column(tmp_path):
    rows = as_text(draw_rows(5))
    column = pa.array(["1|b"] * 5)
    rows = rows.set_column(rows.schema.get_field_index("hist"), "hist", column)
    name = f"{partition('rome', '2026-10-01')}/part-00000.parquet"
    write_file(tmp_path / name, rows)
    with pytest.raises(BadLog, match=r"part-00000\.parquet.*hist .*'b'.*whole = true"):
        read_of(tmp_path, written_catalog())


def test_grades_are_read_as_the_labels_that_they_mean(tmp_path):
    rows = draw_rows(60)
    grades = np.random.default_rng(3).integers(1, 6, 60)
    at = rows.schema.get_field_index("click")
    name = f"{partition('rome', '2026-10-01')}/part-00000.parquet"
    write_file(tmp_path / "graded" / name, rows.set_column(at, "click", pa.array(grades)))
    tasks = [{"label": "click", "at_least": 4}, {"label": "order"}]
    catalog = small_catalog(tasks=tasks)
    read = read_of(tmp_path / "graded", catalog)
    assert label_of(read, catalog.tasks[0]).to_pylist() == (grades >= 4).tolist()
    assert not contract.inspect(read, catalog).masked
