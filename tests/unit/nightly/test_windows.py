from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.nightly.windows import (
    expected_days,
    night_catalog,
    task_windows,
    window_days,
)
from iak.schemas.nightly import WindowSpec
from tests.builders import small_catalog

NIGHT = date(2026, 10, 28)


def catalog(ripe=None, zone="UTC"):
    order = {"label": "order", "kind": "conversion"}
    if ripe is not None:
        order["matures_after"] = ripe
    return small_catalog(tasks=[{"label": "click", "kind": "click"}, order], log__time_zone=zone)


def test_each_task_has_its_newest_ripe_days_from_the_first_day_whose_rows_are_read():
    click, order = task_windows(catalog("P2D"), NIGHT, 7)
    assert (click.first, click.last) == (date(2026, 10, 20), NIGHT)
    assert (order.first, order.last) == (date(2026, 10, 20), date(2026, 10, 26))
    assert window_days([click, order], NIGHT)[0] == order.first
    assert window_days([click, order], NIGHT)[-1] == NIGHT


def test_a_log_of_months_lacks_no_day_within_a_month():
    """Else each day without a file would hold the night."""
    days = [date(2026, 9, 1) + timedelta(days=n) for n in range(91)]
    ends = (date(2026, 9, 30), date(2026, 10, 31), date(2026, 11, 30))
    assert expected_days(days, "month") == ends
    assert expected_days(days, "day") == tuple(days)
    sundays = expected_days(days, "week")
    assert len(sundays) == 13
    assert {day.isoweekday() for day in sundays} == {7}


@given(year=st.integers(2024, 2032), month=st.integers(1, 12))
def test_45_days_that_end_with_a_month_have_two_months(year, month):
    last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
    days = [last - timedelta(days=n) for n in range(45)]
    assert len(expected_days(days, "month")) == 2


def test_a_label_that_ripens_within_a_day_costs_a_day():
    _, order = task_windows(catalog("PT1H"), NIGHT, 3)
    assert order.last == NIGHT - timedelta(days=1)


@given(
    hours=st.integers(0, 240),
    night=st.dates(date(2026, 1, 1), date(2026, 12, 31)),
    zone=st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Shanghai"]),
)
def test_the_last_ripe_day_is_the_last_whose_end_is_old_enough(hours, night, zone):
    _, order = task_windows(catalog(f"PT{hours}H", zone), night, 5)

    def end(day):
        after = day + timedelta(days=1)
        return datetime(after.year, after.month, after.day, tzinfo=ZoneInfo(zone)).timestamp()

    assert end(order.last) + hours * 3600 <= end(night)
    assert end(order.last + timedelta(days=1)) + hours * 3600 > end(night)
    assert (order.last - order.first).days == 4


def test_the_nights_splits_share_out_every_row_of_the_window_once():
    days = window_days(task_windows(catalog(), NIGHT, 7), NIGHT)
    cut = night_catalog(catalog(), days, WindowSpec(valid=0.2, gate=0.1)).splits
    assert set(cut) == {"tune", "valid", "gate"}
    assert {split.dates for split in cut.values()} == {(days[0], NIGHT)}
    ends = [split.slice for split in cut.values()]
    assert [low for low, _ in ends] == [0.0, *(high for _, high in ends[:-1])]
    assert ends[-1][1] == 1.0


def test_partitions_that_are_held_are_left_out():
    days = window_days(task_windows(catalog(), NIGHT, 7), NIGHT)
    cut = night_catalog(catalog(), days, WindowSpec(), admitted=("region", ["a", "b"]))
    assert cut.splits["tune"].where == {"region": ("a", "b")}
