"""Positions of charts: what holds for every set of numbers."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.report.charts import (
    WIDTH,
    Scale,
    calibration_chart,
    interval_mark,
    interval_scale,
    line_through,
    nice_ceiling,
    outcome_columns,
    scatter_chart,
    stacked_bar,
)

numbers = st.floats(-1e6, 1e6)
intervals = st.tuples(numbers, numbers, numbers).map(
    lambda ends: (sorted(ends)[1], min(ends), max(ends))
)


@given(st.lists(intervals, max_size=30))
def test_an_interval_lies_in_its_box_and_on_its_side_of_zero(measured):
    scale = interval_scale(measured)
    for each in measured:
        mark = interval_mark(each, scale)
        assert 0 <= mark.low <= mark.value <= mark.high <= WIDTH
        assert 3 < mark.zero < WIDTH - 3
        if mark.kind == "better":
            assert mark.low >= mark.zero
        if mark.kind == "worse":
            assert mark.high <= mark.zero
        assert mark.is_cut_high == (each[2] > scale.high)


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((0.2, 0.1, 0.3), "better", "worse"),
        ((-0.2, -0.3, -0.1), "worse", "better"),
        ((0.1, -0.1, 0.3), "unclear", "unclear"),
        ((0.1, 0.0, 0.2), "unclear", "unclear"),
    ],
)
def test_only_a_whole_interval_on_one_side_is_better_or_worse(interval, above, below):
    scale = interval_scale([interval])
    assert interval_mark(interval, scale).kind == above
    assert interval_mark(interval, scale, is_better_below=True).kind == below


def test_one_very_wide_interval_does_not_hide_the_others():
    usual = [(0.01, 0.005, 0.015)] * 9
    scale = interval_scale([*usual, (0.5, -0.9, 1.9)])
    mark = interval_mark(usual[0], scale)
    assert mark.high - mark.low > 10
    assert interval_mark((0.5, -0.9, 1.9), scale).is_cut_high


@given(numbers, numbers, st.lists(numbers, min_size=1))
def test_a_scale_stays_in_its_box(one, other, values):
    scale = Scale(min(one, other), max(one, other), 90, 10)
    assert all(10 <= scale(value) <= 90 for value in values)


@given(st.floats(1e-9, 1e12))
def test_a_nice_ceiling_is_near_and_not_below(value):
    ceiling = nice_ceiling(value)
    assert value * (1 - 1e-9) <= ceiling <= 2 * value * (1 + 1e-9)


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=20))
def test_a_line_is_broken_where_there_is_no_value(values):
    d = line_through(values, Scale(0, len(values), 0, 100), Scale(-5, 5, 50, 0))
    starts = sum(v is not None and (k == 0 or values[k - 1] is None) for k, v in enumerate(values))
    assert d.count("M") == starts
    assert d.count("M") + d.count("L") == sum(v is not None for v in values)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_parts_of_a_bar_fill_it_in_proportion(sizes):
    chart = stacked_bar("parts", {f"p{k}": (float(s), "past") for k, s in enumerate(sizes)})
    assert len(chart.rects) == sum(size > 0 for size in sizes)
    for rect, size in zip(chart.rects, (s for s in sizes if s), strict=True):
        assert rect.width == pytest.approx(max(1000 * size / sum(sizes) - 2, 1), abs=0.1)
        assert rect.x + rect.width <= 1001


@given(
    st.lists(
        st.tuples(st.sampled_from(["promoted", "held", "absent"]), st.none() | st.floats(-1, 1)),
        min_size=1,
        max_size=40,
    )
)
def test_every_night_has_a_column_that_can_be_seen(nights):
    chart = outcome_columns("nights", nights)
    pieces = [piece for path in chart.paths for piece in path.d.split("M")[1:]]
    assert len(pieces) == len(nights)
    for piece in pieces:
        start, end = piece.split(" ")[1].split("V")
        assert abs(float(start) - float(end)) >= 1
        assert 0 <= float(end) <= chart.height


def test_an_empty_chart_is_a_chart():
    assert calibration_chart("none", []).summary.endswith("no rows.")
    assert scatter_chart("none", [], x_name="x", y_name="y").dots == ()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9)), min_size=1))
def test_no_position_of_a_calibration_chart_is_infinite(points):
    for path in calibration_chart("curve", [("curve", points)]).paths:
        positions = re.findall(r"[^MLVHh ]+", path.d)
        assert len(positions) >= 3
        assert all(math.isfinite(float(each)) for each in positions)
