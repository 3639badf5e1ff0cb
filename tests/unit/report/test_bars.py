"""Lists of bars, and the picture of the log's days."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.report.bars import bars_of, days_chart, drift_bars, log_days
from iak.schemas.night import DriftLine, PartitionDay

FIRST = date(2026, 10, 1)


def part(region, day, rows, state="complete", **fields):
    return PartitionDay(
        partition=[("region", region)],
        day=FIRST + timedelta(days=day),
        state=state,
        files=1,
        rows=rows,
        **fields,
    )


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 1e9), max_size=30))
def test_bars_are_ordered_and_the_longest_is_whole(values):
    bars = bars_of(values, str, max_bars=40)
    lengths = [bar.length for bar in bars]
    assert lengths == sorted(lengths, reverse=True)
    assert {bar.name for bar in bars} == set(values)
    if any(values.values()):
        assert lengths[0] == 100


def test_further_numbers_share_the_last_bar():
    bars = bars_of({"a": 5.0, "b": 3.0, "c": 2.0, "d": 1.0}, "{:.0f}".format, max_bars=2)
    assert [(bar.name, bar.text) for bar in bars] == [("a", "5"), ("b", "3"), ("2 more", "3")]


def test_drift_is_ordered_by_how_far_it_went_in_either_direction():
    lines = [
        DriftLine(name="a", index=0.02, noise=0.05, word="stable"),
        DriftLine(name="b", index=-0.2, word="changed"),
    ]
    first, second = drift_bars(lines)
    assert (first.name, first.length, first.kind) == ("b", 100, "failed")
    assert (second.length, second.noise) == (10, 25)


def test_one_input_that_moved_very_far_does_not_hide_the_others():
    lines = [DriftLine(name=n, index=i, word="changed") for n, i in (("a", 10.5), ("b", 0.5))]
    first, second = drift_bars(lines)
    assert (first.length, first.text) == (100, "10.500")
    assert second.length == 50


def test_a_day_has_the_rows_of_its_partitions_and_the_worst_of_their_states():
    days = [
        part("a", 1, 10),
        part("b", 1, 20, "shrunken"),
        part("a", 0, 5, is_late=True),
        part("b", 0, 7, "open"),
        part("c", 1, 0, "absent"),
    ]
    first, second = log_days(days)
    assert (first.rows, first.state, first.late, first.partitions) == (12, "open", 1, 2)
    assert (second.rows, second.state, second.late) == (30, "absent", 0)


@pytest.mark.parametrize("count", [1, 3, 60])
def test_every_day_is_a_column_inside_the_box(count):
    chart = days_chart(log_days([part("a", k, 0 if k % 2 else 100) for k in range(count)]))
    assert len(chart.rects) == count
    for rect in chart.rects:
        assert rect.height >= 2
        assert rect.x >= 0
        assert rect.x + rect.width <= chart.width
    assert f"{count} complete" in chart.summary
