"""The rows of a request may come as the log writes them."""

import json

import pyarrow as pa
import pytest

from iak.pipeline.data.contract import rows_as_declared
from iak.pipeline.serving.requests import BadRows, rows_of_arrow, rows_of_json
from tests.builders import small_catalog

FEATURES = (
    {"kind": "list", "name": "hist", "separator": "|", "whole": True},
    {"kind": "categorical", "name": "user", "column": "user_id"},
    {"kind": "numeric", "name": "price", "in_text": True},
)
CATALOG = small_catalog(
    features=FEATURES,
    tables={},
    log__date_key=None,
    log__event_time_format="%Y%m%d",
    splits={"tune": {"days": [0, 1]}},
).to_score(small_catalog(splits={"tune": {"days": [0, 1]}}).splits["tune"])


UNIX = CATALOG.model_copy(
    update={"log": CATALOG.log.model_copy(update={"event_time_format": "unix"})}
)


def read(catalog=CATALOG, **fields):
    row = {
        name: None for name in (*catalog.columns, *catalog.log.partition_keys) if name not in fields
    }
    rows = rows_of_json(json.dumps({"rows": [row | fields]}).encode(), catalog)
    return rows_as_declared(rows, catalog.columns, catalog)


@pytest.mark.parametrize("history", ["7|-2", [7, -2], " 7 ||-2"])
def test_a_history_may_come_in_one_text_or_as_a_list(history):
    assert read(hist=history).column("hist").to_pylist() == [[7, -2]]


@pytest.mark.parametrize("day", ["20261005", 20261005])
def test_a_time_may_come_in_text_or_digits(day):
    assert read(event_time=day).column("event_time").cast(pa.string())[0].as_py()[:10] == (
        "2026-10-05"
    )


@pytest.mark.parametrize("time", ["1790812800", 1790812800, 1790812800.0])
def test_a_unix_time_may_come_in_text_or_as_a_number(time):
    assert read(UNIX, event_time=time).column("event_time").to_pylist() == [1790812800.0]


@pytest.mark.parametrize("price", ["12.5", 12.5, " +12.5"])
def test_a_number_may_come_in_text_or_as_it_is(price):
    assert read(price=price).column("price").to_pylist() == [12.5]


def test_what_is_neither_is_refused_by_its_field():
    with pytest.raises(
        BadRows, match=r"field 'price': expected a number, or its text .*seen \[7\]"
    ):
        read(price=[7])
    with pytest.raises(BadRows, match=r"row 0, field 'hist': expected ids in one text .*seen 7"):
        read(hist=7)
    with pytest.raises(BadRows, match=r"field 'event_time': expected a time as the log writes it"):
        read(event_time=1.5)


@pytest.mark.parametrize(("given", "known"), [(3.0, 3), (True, 1), (7, 7)])
def test_an_id_may_be_a_whole_float_or_a_boolean_as_in_files(given, known):
    assert read(user_id=given, hist=[given]).column("user_id").to_pylist() == [known]
    assert read(hist=[given]).column("hist").to_pylist() == [[known]]


@pytest.mark.parametrize("given", [3.5, 2.0**53, float("nan")])
def test_a_float_that_is_no_whole_number_is_no_id(given):
    with pytest.raises(BadRows, match="field 'user_id': expected a whole number or text, seen"):
        read(user_id=given)


NESTED = small_catalog(
    features=[{"kind": "categorical", "name": "city", "column": "user.home.city"}],
    tables={},
    splits={"tune": {}},
).to_score(small_catalog(splits={"tune": {}}).splits["tune"])


@pytest.mark.parametrize(
    "fields",
    [
        {"user.home.city": "a"},
        {"user": {"home": {"city": "a"}}},
        {"user": {"home": {"city": "b"}}, "user.home.city": "a"},
    ],
)
def test_a_field_of_an_object_is_a_column(fields):
    row = dict.fromkeys((*NESTED.columns, *NESTED.log.partition_keys))
    rows = rows_of_json(
        json.dumps({"rows": [{n: v for n, v in row.items() if "." not in n} | fields]}).encode(),
        NESTED,
    )
    assert rows.column("user.home.city").to_pylist() == ["a"]


def test_a_field_of_a_struct_is_a_column():
    sink = pa.BufferOutputStream()
    table = pa.table({"user": [{"id": 7}, None]})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    rows = rows_of_arrow(sink.getvalue().to_pybytes())
    assert rows.column("user.id").to_pylist() == [7, None]
