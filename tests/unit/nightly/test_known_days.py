"""A night says which of its days the base was trained on, and whether the gate judges by them."""

import re
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.published_base import open_base
from iak.pipeline.nightly.known_days import (
    TrainedDays,
    known_days,
    known_days_notices,
    trained_days,
)
from iak.pipeline.nightly.windows import night_catalog, task_windows, window_days
from iak.schemas.log import SplitSpec
from iak.schemas.nightly import WindowSpec
from tests.builders import small_catalog
from tests.unit.runs.platform import write_platform

NIGHT = date(2026, 10, 28)
DAY = timedelta(days=1)


def trained(first, last, *, rows=None, as_of=None, slice_by="user_id"):
    return TrainedDays(
        first=first, last=last, as_of=as_of, rows=SplitSpec(**rows or {}), slice_by=slice_by
    )


def a_night(night=NIGHT, *, ripe=None, days=7):
    """The windows of a night, and its catalogue, which cuts slices by the user."""
    order = {"label": "order", "kind": "conversion"} | ({"matures_after": ripe} if ripe else {})
    tasks = [{"label": "click", "kind": "click"}, order]
    catalog = small_catalog(tasks=tasks, log__slice_by="user_id")
    windows = task_windows(catalog, night, days)
    return windows, night_catalog(catalog, window_days(windows, night), WindowSpec(days=days))


def notices(*bases, **of_night):
    windows, catalog = a_night(**of_night)
    return known_days_notices(windows, catalog, bases)


def test_days_that_only_the_night_reads_need_no_notice():
    assert notices(trained(NIGHT - 60 * DAY, NIGHT - 7 * DAY)) == []
    assert notices() == []


def test_the_gate_says_which_days_it_judges_by_and_in_whose_favour():
    (notice,) = notices(trained(NIGHT - 60 * DAY, NIGHT - 4 * DAY))
    assert "3 of the 7 days of ctr, 2026-10-22 to 2026-10-24" in notice
    assert "measured too small" in notice
    assert "bias against the kernels" in notice
    assert "[0.9, 1.0]" in notice
    assert "no such day 3 nights later" in notice


@pytest.mark.parametrize(
    ("rows", "slice_by", "judges"),
    [
        ({"slice": (0.0, 0.9)}, "user_id", False),
        ({"slice": (0.0, 0.91)}, "user_id", True),
        ({"slice": (0.0, 0.9)}, "event_id", True),
        ({}, "user_id", True),
    ],
    ids=["without the gate's slice", "with a part of it", "of another hash", "all rows"],
)
def test_a_base_that_left_out_the_gates_rows_disturbs_tuning_alone(rows, slice_by, judges):
    (notice,) = notices(trained(NIGHT - DAY, NIGHT, rows=rows, slice_by=slice_by))
    assert ("rows that the gate judges by" in notice) is judges
    assert ("its numbers hold" in notice) is not judges


def test_rows_that_neither_tunes_nor_judges_need_no_notice():
    windows, catalog = a_night()
    admitted = {name: s.model_copy(update={"where": {"scene": ("feed",)}})
                for name, s in catalog.splits.items()}  # fmt: skip
    other = trained(NIGHT - DAY, NIGHT, rows={"where": {"scene": ("search",)}})
    cut = catalog.model_copy(update={"splits": admitted})
    assert known_days_notices(windows, cut, [other]) == []


def test_the_days_of_a_base_and_of_its_parent_count_together():
    parent, child = trained(NIGHT - 60 * DAY, NIGHT - 5 * DAY), trained(NIGHT - 4 * DAY, NIGHT)
    windows, catalog = a_night()
    known = known_days(windows, catalog, "gate", [child, parent])
    assert known["ctr"] == [NIGHT - n * DAY for n in reversed(range(7))]


def test_a_label_that_was_not_ripe_yet_was_not_learned():
    last = NIGHT - 2 * DAY
    windows, catalog = a_night(ripe="P3D")
    known = known_days(windows, catalog, "gate", [trained(last - 60 * DAY, last, as_of=last)])
    assert known["ctr"][-1] == last
    assert known["cvr"][-1] == last - 3 * DAY


@given(back=st.integers(-3, 12), length=st.integers(1, 9), ripe=st.integers(0, 30))
def test_known_days_are_of_the_window_and_of_the_base(back, length, ripe):
    last = NIGHT - back * DAY
    base = trained(last - length * DAY, last, as_of=last)
    windows, catalog = a_night(ripe=f"PT{6 * ripe}H")
    known = known_days(windows, catalog, "gate", [base])
    for window in windows:
        days = known.get(window.task, [])
        assert all(window.first <= day <= window.last for day in days)
        assert all(base.first <= day <= base.last for day in days)
    both = min(last, NIGHT) - max(base.first, windows[0].first)
    assert len(known.get("ctr", [])) == max(both.days + 1, 0)


@given(known=st.integers(1, 7), ripe=st.integers(0, 4))
def test_the_notice_ends_in_the_night_that_it_names(known, ripe):
    base = trained(NIGHT - 60 * DAY, NIGHT - (7 - known) * DAY)
    (notice,) = notices(base, ripe=f"P{ripe}D")
    nights = int(re.search(r"no such day (\d+) night", notice)[1])
    assert notices(base, night=NIGHT + nights * DAY, ripe=f"P{ripe}D") == []
    assert notices(base, night=NIGHT + (nights - 1) * DAY, ripe=f"P{ripe}D") != []


def test_a_manifest_names_its_days_and_its_slice(tmp_path):
    learned = trained_days(open_base(write_platform(tmp_path).base))
    assert (learned.first, learned.last) == (date(2026, 9, 20), date(2026, 10, 1))
    assert (learned.rows.slice, learned.slice_by) == ((0.0, 0.8), "event_id")
    assert learned.as_of is None


def test_a_manifest_without_days_names_none(tmp_path):
    assert trained_days(open_base(write_platform(tmp_path, base_days=None).base)) is None
