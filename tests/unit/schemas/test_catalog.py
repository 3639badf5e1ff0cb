"""A catalogue that contradicts itself is refused with the field and the remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from iak.schemas.feature import meaning_of
from iak.schemas.log import Catalog
from tests.builders import FEATURES, catalog_document, small_catalog

CROSS = {"kind": "cross", "name": "x", "columns": ["user_id", "item_id"]}
USER = {"kind": "categorical", "name": "user_id"}


def refused(document: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Catalog.model_validate(document)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"log__leak_columns": ["price"]},
            "feature 'price' reads 'price', which is declared a leak column; a model must not see "
            "it. Remove the feature",
            id="leak column as a feature",
        ),
        pytest.param(
            {
                "features": [{"kind": "cross", "name": "x", "columns": ["user_id", "click"]}],
                "tables": {},
            },
            "feature 'x' reads 'click', which is a label",
            id="label inside a cross",
        ),
        pytest.param({"log__colour": "red"}, "log.colour", id="unknown key"),
        pytest.param(
            {"features": [USER, USER], "tables": {}},
            "feature names must be unique; repeated: user_id",
            id="two features of one name",
        ),
        pytest.param(
            {"tasks": [{"label": "click"}, {"label": "order", "name": "click"}]},
            "task names must be unique; repeated: click",
            id="two tasks of one name",
        ),
        pytest.param(
            {
                "tasks": [
                    {"label": "click", "kind": "click"},
                    {"label": "order", "kind": "conversion"},
                    {"label": "age2", "name": "ctcvr"},
                ]
            },
            "task names must be unique; repeated: ctcvr",
            id="a task named like another's metric",
        ),
        pytest.param(
            {"tables__user_id": {"encoding": "hash"}},
            "a table with encoding 'hash' needs rows = N",
            id="hash table without rows",
        ),
        pytest.param(
            {"tables__ghost": {"min_count": 1}},
            "tables no feature reads: ghost. Features read: user_id, item, slot",
            id="orphan table",
        ),
        pytest.param(
            {"log__user": ""},
            "it is empty; name something, or leave the setting out",
            id="no column",
        ),
        pytest.param(
            {"domain__keys": ["region", "region"]},
            "region: named twice; name each once",
            id="a domain key twice",
        ),
        pytest.param(
            {"tasks": [{"label": "click", "matures_after": 7}]},
            'a number has no unit; write "P7D" for 7 days',
            id="days without a unit",
        ),
        pytest.param(
            {"splits": {"tune": {"days": [-1, -3]}}},
            "days [-1, -3] run backwards; expected the earlier one first",
            id="days run backwards",
        ),
        pytest.param(
            {"splits": {"tune": {"days": [0, 3]}, "test": {"days": [-3, -1]}}},
            "'tune' has days [0, 3]; 'test' has days [-3, -1]",
            id="two windows that may meet",
        ),
        pytest.param(
            {
                "tasks": [
                    {"label": "click", "kind": "click"},
                    {"label": "order", "kind": "click", "name": "o"},
                ]
            },
            "one task may be the click",
            id="two clicks",
        ),
        pytest.param(
            {"log__date_key": "day"}, "date_key 'day' is not among partition_keys", id="date key"
        ),
        pytest.param({"log__time_keys": ["hour"]}, "time_keys names 'hour'", id="time key"),
        pytest.param(
            {"log__folder_names": "value", "log__partition_keys": [], "log__date_key": None},
            "name these in partition_keys",
            id="values of no key",
        ),
        pytest.param({"log__time_keys": ["dt"]}, "time_keys names 'dt'", id="date as time key"),
        pytest.param(
            {"log__slice_by": "region"},
            "slice_by 'region' is a partition key",
            id="slice by folder",
        ),
        pytest.param(
            {"log__event_time_format": "%H:%M"}, "names no day", id="a format without a day"
        ),
        pytest.param(
            {"log__event_time_format": "%Y%j"}, "has %j; expected 'iso', or", id="an unknown code"
        ),
        pytest.param(
            {"log__event_time_unit": "d", "log__time_zone": "Asia/Tokyo"},
            "the same in each zone; leave time_zone = 'Asia/Tokyo' out",
            id="days in a zone",
        ),
        pytest.param(
            {"log__date_key": None, "log__date_unit": "d"},
            "date_unit says what date_key counts; name its partition key",
            id="a unit of no key",
        ),
        pytest.param(
            {"log__event_time_format": "iso", "log__event_time_unit": "ms"},
            "give event_time_unit or event_time_format, not both",
            id="a unit and a format",
        ),
        pytest.param(
            {"log__event_time_format": "iso", "log__event_time": None},
            "event_time_format says how event_time is written; name its column",
            id="a format of no column",
        ),
        pytest.param(
            {"features": [{"kind": "list", "name": "h", "separator": "\0"}], "tables": {}},
            "it holds a control character",
            id="a separator that is no text",
        ),
        pytest.param(
            {"features": [{"kind": "list", "name": "h", "whole": True}], "tables": {}},
            "give the separator too",
            id="whole without a separator",
        ),
        pytest.param(
            {
                "features": [
                    {"kind": "list", "name": "h", "separator": "|"},
                    {"kind": "categorical", "name": "i", "column": "h"},
                ],
                "tables": {},
            },
            "features 'h' and 'i' read 'h' in two ways",
            id="a separated list that is an id too",
        ),
        pytest.param(
            {
                "features": [
                    {"kind": "numeric", "name": "n", "in_text": True},
                    {"kind": "categorical", "name": "i", "column": "n"},
                ],
                "tables": {},
            },
            "features 'n' and 'i' read 'n' in two ways",
            id="a number in text that is an id too",
        ),
        pytest.param(
            {"tasks": [{"label": "r", "at_least": 4}, {"label": "r", "at_least": 4, "name": "r4"}]},
            "label columns ['r'] belong to several tasks each",
            id="one bound of a label twice",
        ),
        pytest.param({"log__time_zone": "Mars/Base"}, "log.time_zone", id="time zone"),
        pytest.param(
            {"log__date_key": None, "log__event_time": None, "splits": {"tune": {"days": [0, 1]}}},
            "splits ['tune'] are cut by date, but the log has no date_key or event_time",
            id="dated split of an undated log",
        ),
        pytest.param(
            {"splits": {"tune": {"slice": [0.5, 0.5]}}}, "expected low < high", id="empty slice"
        ),
        pytest.param(
            {"splits": {"tune": {"days": [0, 1], "dates": ["2026-10-01", "2026-10-01"]}}},
            "give dates or days, not both",
            id="dates and days",
        ),
        pytest.param({"splits": {"holdout": {}}}, "splits.holdout", id="unknown split"),
        pytest.param(
            {"domain__values": [["a", "b"]]}, "has 2 values for the 1 keys", id="domain values"
        ),
        pytest.param(
            {"domain__inherits": [[["a"], ["b", "c"]]]},
            "has 2 values for the 1 keys",
            id="what a domain inherits from",
        ),
        pytest.param(
            {"domain__inherits": [[["a"], ["a"]]]}, "inherits from itself", id="domain of itself"
        ),
        pytest.param(
            {"features": [CROSS], "tables": {"x": {"encoding": "identity", "rows": 9}}},
            "a cross needs encoding 'hash' or 'vocabulary'",
            id="cross on an identity table",
        ),
        pytest.param(
            {
                "features": [
                    {"kind": "numeric", "name": "a", "buckets": 3},
                    {**USER, "table": "a"},
                ],
                "tables": {},
            },
            "the buckets of a number need a table of their own",
            id="buckets share a table",
        ),
        pytest.param(
            {"features": [{"kind": "numeric", "name": "a", "boundaries": [2, 1]}], "tables": {}},
            "must rise",
            id="falling boundaries",
        ),
        pytest.param(
            {
                "features": [{"kind": "numeric", "name": "a", "buckets": 3, "boundaries": [1]}],
                "tables": {},
            },
            "give buckets or boundaries, not both",
            id="buckets and boundaries",
        ),
        pytest.param(
            {"features": [{"kind": "image", "name": "a"}], "tables": {}},
            "features.0",
            id="unknown kind",
        ),
    ],
)
def test_a_contradiction_is_refused_with_its_place_and_what_to_do(changes, message):
    assert message in refused(catalog_document(**changes))


@pytest.mark.parametrize(
    ("a", "b", "may_share"),
    [
        pytest.param({}, {}, True, id="two wholes"),
        pytest.param({"slice": [0, 0.8]}, {"slice": [0.8, 1]}, False, id="slices side by side"),
        pytest.param({"slice": [0, 0.8]}, {"slice": [0.7, 1]}, True, id="slices overlap"),
        pytest.param({"days": [0, 3]}, {"days": [4, 9]}, False, id="days from the start"),
        pytest.param({"days": [0, -4]}, {"days": [-3, -1]}, False, id="days from the end"),
        pytest.param({"days": [0, 3]}, {"days": [-3, -1]}, True, id="days from both ends"),
        pytest.param(
            {"days": [0, 3]}, {"dates": ["2026-10-09", "2026-10-09"]}, True, id="days, dates"
        ),
        pytest.param(
            {"where": {"s": ["a"]}}, {"where": {"s": ["b", "c"]}}, False, id="other values"
        ),
        pytest.param({"where": {"s": ["a"]}}, {"where": {"t": ["b"]}}, True, id="other columns"),
    ],
)
def test_splits_that_may_share_rows_are_refused_before_any_row_is_seen(a, b, may_share):
    document = catalog_document(splits={"tune": a, "gate": b})
    if may_share:
        assert "splits 'tune' and 'gate' may share rows; give them disjoint" in refused(document)
    else:
        Catalog.model_validate(document)


def test_only_pretrain_and_tune_may_overlap():
    Catalog.model_validate(catalog_document(splits={"pretrain": {}, "tune": {}}))
    assert "may share rows" in refused(catalog_document(splits={"pretrain": {}, "test": {}}))


def test_tables_are_made_from_the_features_that_read_them():
    catalog = small_catalog()
    assert list(catalog.table_specs) == ["user_id", "item", "slot", "region", "user_scene", "age"]
    assert [f.name for f in catalog.numeric] == ["price"]
    assert [f.name for f in catalog.keyed][-1] == "age"


def test_a_catalogue_names_every_column_that_a_job_reads_once():
    catalog = small_catalog(splits={"tune": {"where": {"scene": ["feed"]}}})
    assert len(set(catalog.columns)) == len(catalog.columns)
    assert {"region", "scene", "click", "event_id", "user_id"} <= set(catalog.columns)
    assert "event_time" not in catalog.columns


def test_a_catalogue_survives_its_own_dump():
    catalog = small_catalog(splits={"tune": {"days": [-3, -1], "slice": [0, 0.5]}})
    assert Catalog.model_validate(catalog.model_dump(mode="json")) == catalog


def test_a_conversion_without_a_click_is_a_plain_label_over_all_rows_for_every_reader():
    catalog = small_catalog(tasks=[{"label": "order", "kind": "conversion", "weight": 0.5}])
    (task,) = catalog.tasks
    assert (task.kind, task.title, task.weight) == ("binary", "cvr", 0.5)
    assert task.entire_space_title is None
    assert Catalog.model_validate(catalog.model_dump(mode="json")) == catalog


LABEL_OR_LEAK = {
    "log.slice_by": {"log__slice_by": "click"},
    "log.user": {"log__user": "click"},
    "log.row_id": {"log__row_id": "click"},
    "log.event_time": {"log__event_time": "click", "log__date_key": None},
    "log.date_key": {"log__date_key": "click", "log__partition_keys": ["region", "click"]},
    "log.partition_keys": {"log__date_key": None, "log__partition_keys": ["region", "click"]},
    "domain.keys": {"domain__keys": ["region", "click"]},
    "domain.parent": {"domain": {"keys": ["region", "slot"], "parent": ["click"]}},
    "splits.tune.where": {"splits": {"tune": {"where": {"click": ["1"]}}}},
}
HARMLESS = ("log.user", "log.row_id", "log.partition_keys")
"""Settings whose column may be a leak: it names the row, and decides nothing."""


@pytest.mark.parametrize("setting", LABEL_OR_LEAK)
def test_a_label_plays_no_other_part(setting):
    changes = LABEL_OR_LEAK[setting]
    assert f"{setting} names 'click', which is a label" in refused(catalog_document(**changes))


@pytest.mark.parametrize("setting", LABEL_OR_LEAK)
def test_a_leak_column_decides_nothing(setting):
    changes = LABEL_OR_LEAK[setting] | {"log__leak_columns": ["click"]}
    document = catalog_document(**changes, tasks=[{"label": "order"}])
    if setting in HARMLESS:
        Catalog.model_validate(document)
        return
    message = f"{setting} names 'click', which is declared a leak column"
    assert message in refused(document)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"domain__keys": ["region", "event_id"]},
            "'event_id', which is log.row_id too",
        ),
        ({"domain__keys": ["event_time"]}, "which is log.event_time too"),
        ({"domain": {"keys": ["region"], "parent": ["region"]}}, "a parent is coarser"),
        ({"domain": {"keys": ["region"], "parent": ["slot", "region"]}}, "a parent is coarser"),
        ({"domain__values": [["a"], ["a"]]}, "named twice"),
        ({"domain__inherits": [[["a"], ["b"]], [["a"], ["c"]]]}, "a: named twice"),
        ({"log__partition_keys": ["dt", "dt"]}, "dt: named twice"),
        ({"log__leak_columns": ["x", "x"]}, "x: named twice"),
        ({"log__leak_columns": ["click"]}, "log.leak_columns names ['click'], which are labels"),
        ({"tasks": [{"label": "click"}, {"label": "click", "name": "b"}]}, "several tasks each"),
        (
            {
                "tasks": [
                    {"label": "e", "positive": p, "name": p[0]} for p in (["a", "b"], ["b", "a"])
                ]
            },
            "a task has its own label, or reads the column with another positive",
        ),
        (
            {"tasks": [{"label": "e", "positive": [p]} for p in "ab"]},
            "repeated: e. Give each a name",
        ),
        ({"tasks": [{"label": "e", "positive": [4, "4"]}]}, "4: named twice"),
        ({"tasks": [{"label": "e", "positive": [4.5]}]}, "tasks.0.positive.0"),
        ({"tasks": [{"label": "e", "positive": [""]}]}, "it is empty"),
        ({"tasks": [{"label": "e", "positive": "buy"}]}, "tasks.0.positive"),
        (
            {"tasks": [{"label": "e", "positive": [1], "at_least": 1}]},
            "'e' is read with positive and with at_least; leave one of them out",
        ),
        (
            {"tasks": [{"label": "e", "at_least": 1, "has_value": True}]},
            "'e' is read with at_least and with has_value; leave one of them out",
        ),
        (
            {"tasks": [{"label": "e", "positive": [1, 2], "missing": [2]}]},
            "['2'] of 'e' are in positive and in missing; keep one",
        ),
        ({"features": [{**CROSS, "columns": ["a", "a"]}], "tables": {}}, "a: named twice"),
        ({"splits": {"tune": {"where": {"scene": []}}}}, "splits.tune.where.scene"),
        ({"domain__keys": [""]}, "it is empty"),
        ({"log__user": "us\0er"}, "control character"),
        ({"log__path": "ev\nents"}, "control character"),
        ({"splits": {"tune": {"days": [0, 10**6]}}}, "splits.tune.days.1"),
        ({"tasks": [{"label": "click", "matures_after": "-P7D"}]}, "tasks.0.matures_after"),
        ({"tasks": [{"label": "click", "matures_after": "P99999D"}]}, "tasks.0.matures_after"),
        ({"tasks": [{"label": "click", "weight": float("nan")}]}, "tasks.0.weight"),
        ({"tables__slot__rows": 10**12}, "tables.slot.rows"),
        ({"tables__slot__width": 10**9}, "tables.slot.width"),
    ],
)
def test_what_no_catalogue_means_is_refused_with_its_key(changes, expected):
    assert expected in refused(catalog_document(**changes))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_boundaries_are_numbers(broken):
    feature = {"kind": "numeric", "name": "price", "boundaries": [1.0, broken]}
    message = refused(catalog_document(features=[feature], tables={}))
    assert "features.0.numeric.boundaries.1" in message


def test_how_a_column_is_written_changes_no_document_of_other_catalogues():
    catalog = small_catalog()
    assert "event_time_format" not in catalog.log.model_dump()
    assert all({"at_least", "positive"}.isdisjoint(task.model_dump()) for task in catalog.tasks)
    lists = [f for f in catalog.features if f.kind == "list"]
    assert lists
    assert all({"separator", "whole"}.isdisjoint(f.model_dump()) for f in lists)
    assert all("in_text" not in f.model_dump() for f in catalog.features)
    number = next(f for f in catalog.features if f.kind == "numeric")
    assert meaning_of(number.model_copy(update={"in_text": True})) == meaning_of(number)
    written = lists[0].model_copy(update={"separator": "|", "whole": True})
    assert meaning_of(written) == meaning_of(lists[0]), "the same ids, written otherwise"


def test_a_history_is_a_list_of_a_table_whose_first_categorical_reader_is_its_target():
    later = {"kind": "categorical", "name": "later", "column": "slot", "table": "item"}
    genres = {"kind": "list", "name": "genres", "column": "hist"}
    users = {"kind": "list", "name": "friends", "column": "hist", "table": "user_id"}
    catalog = small_catalog(features=[genres, users, *FEATURES, later])
    assert [(history.name, target.name) for history, target in catalog.histories] == [
        ("friends", "user_id"),
        ("hist", "item"),
    ]


@pytest.mark.parametrize("separator", ["|", ", ", "\t", "\x01", "::"])
def test_what_logs_write_between_ids_is_a_separator(separator):
    feature = {"kind": "list", "name": "h", "column": "hist", "separator": separator}
    (made,) = small_catalog(features=[feature], tables={}).features
    assert made.separator == separator


def test_a_unix_time_in_text_has_a_unit():
    changes = {"log__event_time_format": "unix", "log__event_time_unit": "ms"}
    assert small_catalog(**changes).log.event_time_unit == "ms"


def test_two_tasks_may_read_one_column_and_values_are_kept_as_text():
    tasks = [
        {"label": "behavior", "positive": ["fav", "cart", "buy"], "kind": "click"},
        {"label": "behavior", "positive": [4, True], "name": "order"},
        {"label": "watched", "at_least": 0.5},
        {"label": "watched", "at_least": 0.9, "name": "whole"},
    ]
    read = small_catalog(tasks=tasks).tasks
    assert [task.title for task in read] == ["ctr", "order", "watched", "whole"]
    assert read[1].positive == ("4", "true")
    assert [task.label_text for task in read] == [
        "behavior = fav or cart or buy", "behavior = 4 or true", "watched >= 0.5", "watched >= 0.9",
    ]  # fmt: skip
    assert small_catalog(tasks=[t.model_dump() for t in read]).tasks == read
