"""Charts over nights: what they draw of the records, and that nothing leaves their box."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.report.trends import HEIGHT, OUTCOMES, WIDTH, trends_of
from tests.nights import LAST, a_night, some_nights

PLOT_HEIGHT = 58.0
"""Height of the tallest column, in the chart's units."""


def night_with(outcomes, day=LAST, **fields):
    """A night with one domain for each of these outcomes."""
    (domain, *_) = a_night(domains=1).domains
    domains = [domain.model_copy(update={"outcome": outcome}) for outcome in outcomes]
    return a_night(day, domains=1).model_copy(update={"domains": domains, **fields})


def chart_named(trends, start):
    (chart,) = [chart for chart in trends.charts if chart.title.startswith(start)]
    return chart


def test_the_table_has_a_row_for_every_night_under_the_same_heads():
    trends = trends_of(some_nights(4, domains=3))
    assert trends.heads[:5] == ("night", *OUTCOMES)
    assert [row[0] for row in trends.rows] == [
        f"{(LAST - timedelta(days=back)).day} Oct 2026" for back in (3, 2, 1, 0)
    ]
    assert {len(row) for row in trends.rows} == {len(trends.heads)}


@given(st.lists(st.lists(st.sampled_from(OUTCOMES), max_size=9), min_size=1, max_size=5))
def test_a_column_is_as_high_as_its_night_has_kernels(nights):
    records = [night_with(each, LAST + timedelta(days=n)) for n, each in enumerate(nights)]
    chart = trends_of(records).charts[0]
    most = max(1, *(len(each) for each in nights))
    rects = iter(chart.rects)
    for outcomes in nights:
        parts = [next(rects) for _ in {*outcomes}]
        drawn = {part.kind: part.height for part in parts}
        expected = {o: PLOT_HEIGHT * outcomes.count(o) / most for o in outcomes}
        assert drawn == pytest.approx(expected, abs=0.11)
        assert len({part.x for part in parts}) <= 1
    assert next(rects, None) is None


@pytest.mark.parametrize("count", [1, 2, 27])
def test_no_shape_leaves_its_box(count):
    for chart in trends_of(some_nights(count, domains=2)).charts:
        assert (chart.width, chart.height) == (WIDTH, HEIGHT)
        for rect in chart.rects:
            assert rect.x >= 0
            assert rect.x + rect.width <= WIDTH
            assert rect.y >= 0
            assert rect.y + rect.height <= HEIGHT
        for dot in chart.dots:
            assert dot.radius <= dot.x <= WIDTH - dot.radius
            assert dot.radius <= dot.y <= HEIGHT - dot.radius


def test_columns_of_neighbouring_nights_do_not_overlap():
    chart = chart_named(trends_of(some_nights(27, domains=2)), "rows tuned")
    ends = [rect.x + rect.width for rect in chart.rects]
    assert all(end < rect.x for end, rect in zip(ends, chart.rects[1:], strict=False))


def test_the_page_s_own_night_is_marked():
    chart = chart_named(trends_of(some_nights(3, domains=2)), "rows tuned")
    assert [rect.kind for rect in chart.rects] == ["past", "past", "accent"]


def test_a_number_that_no_night_has_gets_no_chart():
    bare = {"drift": [], "unseen": {}, "rows_tuned": 0, "cost": 0.0}
    trends = trends_of([night_with(["waiting"], **bare)])
    titles = [chart.title for chart in trends.charts]
    assert not any("drift" in title or "unseen" in title or "rows" in title for title in titles)
    assert len(trends.rows[0]) == len(trends.heads)


def test_a_night_without_a_value_breaks_the_line():
    nights = some_nights(3, domains=2)
    silent = nights[1].model_copy(update={"domains": []})
    chart = chart_named(trends_of([nights[0], silent, nights[2]]), "median gain")
    (beside, curve) = chart.paths
    assert beside.d == ""
    assert curve.d.count("M") == 2
    whole = chart_named(trends_of(nights), "median gain")
    assert whole.paths[1].d.count("M") == 1


def test_the_base_stands_beside_the_auc_on_one_scale():
    chart = chart_named(trends_of(some_nights(3, domains=2)), "AUC of ctr")
    assert [path.kind for path in chart.paths] == ["beside", "curve"]
    assert all(path.d for path in chart.paths)


def test_a_last_night_without_a_value_has_no_dot_and_says_so():
    nights = some_nights(2, domains=2)
    last = nights[1].model_copy(update={"domains": []})
    chart = chart_named(trends_of([nights[0], last]), "median gain")
    assert chart.dots == ()
    assert "\N{EN DASH}" in [label.text for label in chart.labels]
