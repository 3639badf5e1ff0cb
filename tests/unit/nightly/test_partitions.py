from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.label_days import DayCount
from iak.pipeline.nightly.partitions import (
    held_partitions,
    is_complete,
    judge_partitions,
    last_complete_day,
    partition_holding,
)
from tests.unit.nightly.nights import A, B, clock, day, files, seen

WEEK = [day(back) for back in range(6, -1, -1)]
FULL = [files(A, back) for back in range(7)]
NO_LABELS = {}


def judged(listed, earlier=(), labels=NO_LABELS, **ready):
    """The night's own day of partition a."""
    before = {(tuple(one.partition), one.day): one for one in earlier}
    days = judge_partitions(listed, WEEK, clock(**ready), before, labels)
    return next(one for one in days if one.day == day() and tuple(one.partition) == A)


def test_a_day_is_complete_by_its_marker_or_by_quiet():
    assert is_complete(files(marker=True, hours=0), clock())
    assert is_complete(files(marker=False, hours=2), clock())
    assert not is_complete(files(marker=False, hours=1.9), clock())
    assert not is_complete(files(marker=False, hours=99), clock(needs_marker=True))


def test_the_last_complete_day_is_that_of_most_partitions():
    listed = [*(files(A, back) for back in range(3)), *(files(B, back) for back in (1, 2))]
    assert last_complete_day(listed, clock(), before=None) == day(1)
    third = (("region", "c"),)
    listed += [files(third, back) for back in range(3)]
    assert last_complete_day(listed, clock(), before=None) == day(0)
    assert last_complete_day(listed, clock(), before=day(0)) == day(1)


def test_a_day_with_an_unreadable_file_is_not_complete():
    listed = [files(A, 1), files(A, 0, unreadable=["no whole Parquet file"])]
    assert last_complete_day(listed, clock(), before=None) == day(1)
    assert judged([*FULL[1:], listed[1]]).state == "open"


def test_there_may_be_no_complete_day():
    assert last_complete_day([files(marker=False, hours=0)], clock(), before=None) is None


@pytest.mark.parametrize(
    ("listed", "state"),
    [
        pytest.param(FULL, "complete", id="complete"),
        pytest.param(FULL[1:], "absent", id="absent"),
        pytest.param([*FULL[1:], files(marker=False, hours=0.5)], "open", id="open"),
        pytest.param([*FULL[1:], files(rows=49)], "shrunken", id="shrunken"),
        pytest.param([*FULL[1:], files(rows=50)], "complete", id="half is enough"),
        pytest.param([FULL[2], FULL[1], files(rows=1)], "complete", id="two days show no habit"),
    ],
)
def test_the_state_of_a_day(listed, state):
    found = judged(listed)
    assert found.state == state
    assert found.holds == (state != "complete") == bool(found.reason)


def clicks(newest, *older):
    """Labels of partition a: positives among 1,000 rows of its own day and those before."""
    counts = {(A, day(back)): DayCount(1_000, ones) for back, ones in enumerate((newest, *older))}
    return {"ctr": counts | {(B, day()): DayCount(1_000, 500)}}


def test_a_day_without_clicks_holds_once():
    first = judged(FULL, labels=clicks(0, 90, 200, 60, 70))
    assert (first.state, first.holds) == ("one_class", True)
    assert first.reason == (
        "region=a/2026-10-28: ctr is 0 in all its 1,000 labels; by the rates of the other days at "
        "least 70 would be 1"
    )
    again = judged(FULL, [first], labels=clicks(0, 90, 200, 60, 70))
    assert (again.state, again.holds) == ("complete", False)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(clicks(1, 90, 200, 60, 70), id="one click"),
        pytest.param(clicks(0, 0, 200, 0, 70), id="a label of some days"),
        pytest.param(clicks(0, 40, 49, 30, 20), id="too few to expect any"),
        pytest.param(clicks(0, 90, 90), id="two days show no habit"),
        pytest.param({"ctr": {}}, id="not ripe"),
    ],
)
def test_few_or_rare_clicks_do_not_hold(labels):
    assert judged(FULL, labels=labels).state == "complete"


def test_a_platform_may_take_days_of_one_class():
    labels = clicks(0, 90, 200, 60, 70)
    assert judged(FULL, labels=labels, one_class_from=0).state == "complete"
    assert judged(FULL, labels=labels, one_class_from=71).state == "complete"


def test_days_that_hold_alike_are_told_once():
    """Else a log that was copied a minute ago would give a line of a hundred days."""
    copied = [files(A, back, marker=False, hours=0.5) for back in range(7)]
    days = judge_partitions(copied, WEEK, clock(), {}, NO_LABELS)
    assert held_partitions(days) == {
        A: "region=a/2026-10-28 has no _SUCCESS, and its newest file is 30 minutes old; with 120 "
        "it counts as complete. Write the marker; or, for days that are whole when they arrive (a "
        'copied log), set quiet_for = "PT0S" under [ready] (6 days before are like it, from '
        "2026-10-22 on)"
    }


def test_a_day_that_changed_after_a_night_had_read_it_holds_once():
    first = judged(FULL, [seen(content="other", rows=90)])
    assert (first.state, first.holds) == ("changed", True)
    assert "90 rows then, 100 now" in first.reason
    same = judged(FULL, [seen(content="other", rows=100)])
    assert "its 100 rows are not those that it had then" in same.reason
    again = judged(FULL, [first])
    assert (again.state, again.holds) == ("complete", False)


def test_a_day_for_which_a_night_was_held_is_taken_as_it_is_afterwards():
    small = [*FULL[1:], files(rows=9)]
    first = judged(small)
    assert (first.state, first.holds) == ("shrunken", True)
    assert not judged(small, [first]).holds
    gone = judged(FULL[1:])
    assert gone.holds
    assert not judged(FULL[1:], [gone]).holds


def test_a_day_that_arrives_late_is_taken_up_and_named_late():
    for before in (judged(FULL[1:]), judged([*FULL[1:], files(rows=9)])):
        found = judged(FULL, [before])
        assert (found.state, found.holds, found.is_late) == ("complete", False, True)


def test_an_open_day_holds_for_as_long_as_it_is_open():
    half = [*FULL[1:], files(marker=False)]
    first = judged(half, needs_marker=True)
    assert first.holds
    assert judged(half, [first], needs_marker=True).holds


def test_days_before_a_partition_began_are_no_gap():
    new = judge_partitions([files(A, 0)], WEEK, clock(), {}, NO_LABELS)
    assert [one.holds for one in new] == [False] * len(WEEK)


@given(
    back=st.sets(st.integers(0, 6), min_size=1),
    rows=st.lists(st.integers(0, 200), min_size=7, max_size=7),
    hours=st.floats(0, 5),
)
def test_what_a_night_held_no_later_night_holds_again_once_it_is_quiet(back, rows, hours):
    listed = [files(A, n, rows=rows[n], marker=False, hours=hours) for n in sorted(back)]
    first = judge_partitions(listed, WEEK, clock(), {}, NO_LABELS)
    seen_before = {(tuple(one.partition), one.day): one for one in first}
    later = clock(quiet_for=timedelta(0))
    second = judge_partitions(listed, WEEK, later, seen_before, NO_LABELS)
    assert not held_partitions(second)
    assert {one.day for one in first} == set(WEEK)


@pytest.mark.parametrize(
    ("domain", "holds"),
    [
        pytest.param(A, True, id="the partition itself"),
        pytest.param((*A, ("daypart", "noon")), True, id="a part of it"),
        pytest.param((), False, id="pooled"),
        pytest.param(B, False, id="another"),
        pytest.param((("daypart", "noon"),), False, id="across partitions"),
    ],
)
def test_a_partition_holds_the_domains_whose_rows_it_has(domain, holds):
    assert partition_holding(domain, {A: "late"}) == ("late" if holds else None)


def test_a_log_of_one_partition_holds_every_domain():
    assert partition_holding((), {(): "late"}) == "late"
    assert partition_holding(A, {(): "late"}) == "late"
