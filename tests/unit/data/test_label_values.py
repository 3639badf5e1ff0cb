"""A value of `positive` that never occurs is warned of, with what the log has instead."""

import pyarrow as pa

from iak.pipeline.data.label_values import LabelValues
from tests.builders import batch_of, small_catalog

EVENTS = ["view"] * 5 + ["cart"] * 3 + ["Buy"] + [None, ""]


def findings(*positive, events=EVENTS, kind=None):
    """Findings on two tasks of one column, the second of which is right."""
    tasks = [
        {"label": "event", "positive": list(positive), "name": "order"},
        {"label": "event", "positive": ["cart"]},
    ]
    values = LabelValues(small_catalog(tasks=tasks))
    column = pa.array(events, kind)
    for part in (column.slice(0, 4), column.slice(4)):
        values.add(batch_of({"event": part.dictionary_encode()}))
    return list(values.findings())


def test_a_misspelt_event_is_warned_of_with_the_values_that_occur():
    (finding,) = findings("buy", "Buy")
    assert (finding.level, finding.column, finding.count) == ("warn", "event", 9)
    assert finding.what == (
        "positive of task 'order' names 'buy', which no row that was looked at has in event; "
        "seen are 'view' (5), 'cart' (3), 'Buy' (1)"
    )


def test_events_that_occur_are_not_warned_of():
    assert findings("Buy", "view") == []


def test_a_column_without_a_value_says_nothing():
    assert findings("buy", events=[None] * 9, kind=pa.string()) == []


def test_a_rare_event_is_found_among_many_values():
    many = [f"e{number}" for number in range(2_000)] + ["cart", "buy"]
    assert findings("buy", events=many) == []
    (finding,) = findings("sold", events=many)
    assert "seen are 'e0' (1), 'e1' (1), 'e2' (1), 'e3' (1), 'e4' (1), " in finding.what


def test_words_where_a_bound_reads_numbers_are_warned_of():
    catalog = small_catalog(tasks=[{"label": "event", "at_least": 1}])
    values = LabelValues(catalog)
    values.add(batch_of({"event": pa.array(["1", "0", "", None, "Y", "N", "Y"])}))
    (finding,) = values.findings()
    assert finding.count == 3
    assert finding.what == (
        "at_least of task 'event' reads numbers, and event has words: 'Y' (2), 'N' (1)"
    )
    assert "give positive instead" in finding.remedy
    for numbers in (["1", "0", ""], [1.0, None], [True, False]):
        values = LabelValues(catalog)
        values.add(batch_of({"event": pa.array(numbers)}))
        assert list(values.findings()) == []
