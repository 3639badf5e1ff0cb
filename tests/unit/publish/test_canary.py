"""Which rows the canary is of."""

import dataclasses

import numpy as np
import pytest

from iak.pipeline.publish.canary import newest_rows
from tests.unit.publish.test_publish_bundles import paired

DAY = 20_000
DAY_S = 86_400
HOURS = np.arange(72)
"""Hour of each row since the first of three days; the last row is of hour 71."""


def rows_of(second_n=None, day_n=None):
    found = paired(0.3, rows=HOURS.size)
    return dataclasses.replace(
        found, day_n=DAY + HOURS // 24 if day_n is None else day_n, second_n=second_n
    )


def seconds():
    return (DAY * DAY_S + HOURS * 3600).astype(float)


@pytest.mark.parametrize("hours", [1.0, 6.0, 30.0, 1000.0])
def test_event_times_say_which_hours_are_newest(hours):
    found = newest_rows(rows_of(seconds()), hours)
    assert found.rows.day_n.size == min(hours, HOURS.size)
    assert found.rows.second_n.min() > seconds().max() - hours * 3600
    assert found.sentence == f"the newest {hours:g} hours"


def test_whole_days_stand_for_hours_where_the_log_knows_only_days():
    found = newest_rows(rows_of(), 25.0)
    assert (found.rows.day_n >= DAY + 1).all()
    assert found.rows.day_n.size == 48
    assert found.sentence == "the newest 2 days (the log has no event time)"
    assert newest_rows(rows_of(), 3.0).sentence == "the newest day (the log has no event time)"


def test_rows_without_a_time_are_not_among_the_newest():
    second_n = seconds()
    second_n[-3:] = -np.inf
    found = newest_rows(rows_of(second_n), 2.0)
    assert found.rows.second_n.tolist() == second_n[-5:-3].tolist()
    none = newest_rows(rows_of(np.full(HOURS.size, -np.inf)), 2.0)
    assert none.rows.day_n.size == 24
    assert none.sentence == "the newest day (the rows have no event time)"


def test_a_clock_that_runs_ahead_does_not_leave_the_canary_alone():
    second_n = seconds()
    second_n[0] += 400 * DAY_S
    found = newest_rows(rows_of(second_n), 6.0)
    assert found.rows.second_n.tolist() == second_n[-6:].tolist()
    all_ahead = newest_rows(rows_of(seconds() + 400 * DAY_S), 6.0)
    assert all_ahead.rows.day_n.size == 0


def test_there_is_no_canary_where_none_is_asked_for():
    assert newest_rows(rows_of(seconds()), 0.0) is None
    assert newest_rows(dataclasses.replace(rows_of(), day_n=None), 24.0) is None
