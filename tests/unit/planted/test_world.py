"""Rows of the planted world by region and day."""

import pytest

from iak.pipeline.planted.world import build_world
from tests.unit.planted.planted_log import small


def test_region_sizes_follow_the_skew():
    rows = build_world(small(rows=40_000, skew=8.0)).rows_RD.sum(axis=1)
    assert rows[0] / rows[-1] == pytest.approx(8.0, rel=0.02)
    assert rows.sum() == 40_000


def test_every_region_has_rows_on_every_day_and_weekends_are_busier():
    world = build_world(small(rows=40_000, days=14))
    assert world.rows_RD.shape == (3, 14)
    assert world.rows_RD.min() > 0
    by_day = world.rows_RD.sum(axis=0)
    is_weekend = [day % 7 in (2, 3) for day in range(14)]  # the log starts on a Thursday
    weekend = [rows for rows, is_late in zip(by_day, is_weekend, strict=True) if is_late]
    week = [rows for rows, is_late in zip(by_day, is_weekend, strict=True) if not is_late]
    assert min(weekend) > max(week)
