"""A day of which a label has one class alone is found, where the other days have both."""

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.label_days import DayCount, DayLabels, absent_class, count_labels
from iak.pipeline.data.partition_days import select_days
from tests.builders import DAYS, batch_of, small_catalog, write_log

DATES = [f"2026-03-{number:02d}" for number in range(1, 7)]


def day_of(date, clicks, rows=400):
    """A day's rows, of which the first ones are clicked."""
    return batch_of({"dt": [date] * rows, "click": [1] * clicks + [0] * (rows - clicks)})


def findings(*batches, masks=None, **changes):
    tasks = [{"label": "click", "kind": "click"}]
    days = DayLabels(small_catalog(tasks=tasks, **changes))
    for batch in batches:
        days.add(batch, masks or {})
    return list(days.findings())


def test_a_day_without_clicks_is_warned_of():
    clicks = [80, 60, 0, 70, 90, 60]
    (finding,) = findings(*map(day_of, DATES, clicks))
    assert (finding.level, finding.column, finding.count) == ("warn", "click", 400)
    assert finding.examples == ("2026-03-03",)
    assert finding.what == (
        "on 2026-03-03, click is 0 in all its 400 labels; by the rates of the other days at least "
        "60 would be 1"
    )


def test_two_days_of_clicks_alone_are_one_finding():
    clicks = [80, 400, 60, 400, *[70] * 8]
    dates = [f"2026-04-{number:02d}" for number in range(1, 13)]
    (finding,) = findings(*map(day_of, dates, clicks))
    assert finding.what == (
        "on 2026-04-02, the first of 2 such days, click is 1 in all its 400 labels; by the rates "
        "of the other days at least 330 would be 0"
    )
    assert (finding.count, finding.examples) == (800, ("2026-04-02", "2026-04-04"))


def test_a_label_that_does_not_count_makes_no_day():
    batches = [*map(day_of, DATES[:-1], [80] * 5)]
    assert findings(*batches, day_of(DATES[-1], 0))
    late = day_of(DATES[-1], 0)
    days = DayLabels(small_catalog(tasks=[{"label": "click", "kind": "click"}]))
    for batch in batches:
        days.add(batch, {})
    days.add(late, {"ctr": ~pa.array([False] * 400).to_numpy(zero_copy_only=False)})
    assert list(days.findings()) == []


@pytest.mark.parametrize("rest", [[0, 0, 80], [10, 10, 10]], ids=["sales", "thin"])
def test_a_label_of_some_days_or_of_few_rows_is_not_missed(rest):
    assert findings(*map(day_of, DATES, [0, 80, 90, *rest])) == []


def test_a_log_without_days_has_no_such_day():
    days = [day_of(DATES[0], 80) for _ in range(4)]
    assert (
        findings(*days, log__date_key=None, log__event_time=None, log__partition_keys=[], splits={})
        == []
    )


@pytest.mark.parametrize("event_time", [None, "event_time"])
def test_a_time_that_nothing_reads_is_not_looked_for(event_time):
    catalog = small_catalog(
        tasks=[{"label": "click", "kind": "click"}],
        log__date_key=None,
        log__event_time=event_time,
        fresh=[{"keys": ["slot"]}] if event_time is None else [],
    )
    days = DayLabels(catalog)
    days.add(day_of(DATES[0], 80), {})
    assert list(days.findings()) == []


@given(
    known=st.integers(0, 10_000),
    others=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=9),
)
def test_what_is_found_is_absent_and_was_usual(known, others):
    counts = [DayCount(ones + zeros, ones) for ones, zeros in others]
    for own, label in ((DayCount(known, 0), 1), (DayCount(known, known), 0)):
        found = absent_class(own, counts)
        if found is None:
            continue
        assert (found.label, found.known) == (label, known)
        shares = [each.of(label) / each.known for each in counts if each.known]
        as_usual = sum(share * known >= found.expected for share in shares)
        assert found.expected >= 50
        assert as_usual >= 3 * len(shares) / 4


def test_labels_are_counted_by_partition_and_day(tmp_path):
    catalog = small_catalog(log__path="")
    write_log(tmp_path, [("hangzhou", DAYS[0], [5]), ("hangzhou", DAYS[1], [4, 3])])
    first, last = (dt.date.fromisoformat(day) for day in (DAYS[0], DAYS[-1]))
    counts = count_labels(select_days(catalog, str(tmp_path), (first, last)), catalog)
    assert set(counts) == {task.title for task in catalog.tasks}
    hangzhou = (("region", "hangzhou"),)
    click = counts[catalog.tasks[0].title]
    # The second day has seven rows, and a null label.
    assert {key: count.known for key, count in click.items()} == {
        (hangzhou, first): 5,
        (hangzhou, dt.date.fromisoformat(DAYS[1])): 6,
    }
