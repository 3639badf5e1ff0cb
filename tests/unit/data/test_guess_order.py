"""Numbered days and weeks, where a log has no dates."""

import numpy as np
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.guess_order import guess_order
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import shop, write

DAYS = np.arange(2_000) // 200 + 45


def sampled(root):
    return read_sample(str(root), rows=10_000)


@pytest.mark.parametrize("name", ["day", "pt_d", "f_1", "week_no"])
def test_numbered_days_are_followed_by_the_splits_and_are_no_feature(name, tmp_path):
    write(tmp_path, shop(event_time=None, **{name: DAYS}))
    guess = guess_catalog(sampled(tmp_path))
    assert name not in {f.column for f in guess.features} | {*guess.domain_keys}
    assert "it never falls from row to row" in guess.splits_why
    cut = {split: own.days for split, own in guess.splits.items()}
    assert cut["test"] == (-1, -1)
    assert cut["tune"] == cut["gate"] == (-3, -2)
    assert cut["pretrain"] == cut["pretrain_valid"] == (0, -4)
    assert not any(own.where for own in guess.splits.values())
    assert sum(own.share for own in guess.splits.values()) == pytest.approx(1)
    assert (guess.time.column, guess.time.unit, guess.date_key) == (name, "d", None)


def test_numbers_that_are_no_days_since_1970_are_named_by_the_splits(tmp_path):
    weeks = DAYS - 45 + 202_640
    write(tmp_path, shop(event_time=None, week_no=weeks))
    guess = guess_catalog(sampled(tmp_path))
    cut = {split: own.where["week_no"] for split, own in guess.splits.items()}
    assert cut["test"] == ("202649",)
    assert cut["tune"] == cut["gate"] == ("202647", "202648")
    assert cut["pretrain"] == tuple(map(str, range(202_640, 202_647)))
    assert guess.time is None


def test_numbered_folders_are_followed_as_they_are_written(tmp_path):
    for week in range(6):
        write(tmp_path, shop(400, week, event_time=None), folder=f"week={week:02d}")
    guess = guess_catalog(sampled(tmp_path))
    assert guess.splits["test"].days == (-1, -1)
    assert (guess.date_key.column, guess.date_unit, guess.time) == ("week", "d", None)
    assert guess.domain_keys == ("scene",)


def test_files_and_folders_of_numbered_days_are_followed_in_the_order_of_numbers(tmp_path):
    for day in range(8, 13):
        table = shop(400, day, event_time=None, batch=np.full(400, day * 7))
        write(tmp_path / "files", table, name=f"day_{day}.parquet")
        write(tmp_path / "folders", table, folder=f"scene_a/D{day}")
    for root, prefix in ((tmp_path / "files", "day_"), (tmp_path / "folders" / "scene_a", "D")):
        guess = guess_catalog(sampled(root))
        assert (guess.date_key.column, guess.date_unit) == ("day_number", "d"), prefix
        assert guess.splits["test"].days == (-1, -1)
        assert guess.splits["pretrain"].days == (0, -3)
        assert guess.domain_keys == ("scene",)
        why = {left.column: left.why for left in guess.left_out}
        assert why["batch"] == "each of its values lies on one day, so later rows have other values"


@pytest.mark.parametrize("days", [range(8), range(1, 41)])
def test_shuffled_days_count_where_they_are_neither_of_a_week_nor_of_a_month(days, tmp_path):
    write(tmp_path, shop(event_time=None, day=np.resize(days, 2_000)))
    order = guess_order(sampled(tmp_path))
    assert list(order.rows_by_value) == [*map(str, days)]
    assert order.why.endswith("its numbers are no days of a week or a month")


@pytest.mark.parametrize(
    ("name", "days"),
    [("day", range(7)), ("day", range(1, 8)), ("day", range(1, 32)), ("hour", range(24))],
)
def test_shuffled_numbers_that_may_be_of_a_calendar_count_no_days(name, days, tmp_path):
    write(tmp_path, shop(event_time=None, **{name: np.resize(days, 2_000)}))
    assert guess_order(sampled(tmp_path)) is None


@pytest.mark.parametrize("names", [("day_1", "day_01", "day_2"), ("day_1", "week_2", "day_3")])
def test_folders_that_are_not_numbered_alike_count_nothing(names, tmp_path):
    for seed, name in enumerate(names):
        write(tmp_path, shop(400, seed, event_time=None), folder=f"day={name}")
    assert guess_order(sampled(tmp_path), skipped=["event_id"]) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("day", DAYS[::-1]),  # weekdays, or rows without an order
        ("shelf", DAYS),  # rows that are sorted by something else than time
        ("f_1", DAYS // 4),  # too few values for a column without a name
        ("day", DAYS * 7),
        ("day", DAYS // 30),
        ("day", np.arange(2_000)),
    ],
)
def test_other_numbers_count_no_days(name, values, tmp_path):
    write(tmp_path, shop(event_time=None, **{name: values}))
    assert guess_order(sampled(tmp_path), skipped=["event_id"]) is None
