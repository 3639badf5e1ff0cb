"""The picture of `terms`: a panel for each condition, coloured by what its interval shows."""

from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.figures_terms import conditions_of, draw_terms


def record_of(*intervals):
    """Return a record of one condition: the shipped kernels, and a variant for each interval."""
    common = {
        "table": "terms", "condition": "noisy", "seeds": 3, "share": 0.6, "delta_auc": 0.01,
        "calibration": 1.0, "harmed": 0, "domains": 4,
    }  # fmt: skip
    rows = [{**common, "variant": "as shipped", "minus_shipped": 0.0}]
    for number, (low, high) in enumerate(intervals):
        row = {"variant": f"v{number}", "minus_shipped": (low + high) / 2, "low": low, "high": high}
        rows.append({**common, **row})
    return BenchmarkRecord(
        bench="terms", spec={}, is_smoke=False, command="x", seconds=1,
        started_at=datetime(2026, 1, 1, tzinfo=UTC), rows=rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "colour"),
    [(-0.02, -0.01, "#a40000"), (-0.02, 0.01, "#b0b4ba"), (0.01, 0.02, "#3465a4")],
)
def test_an_interval_is_coloured_by_the_side_of_zero_that_it_lies_on(low, high, colour):
    record = record_of((low, high))
    ax = Figure().subplots()
    draw_terms(record, [ax])
    (interval,) = (line for line in ax.lines if list(line.get_xdata()) == [low, high])
    assert interval.get_color() == colour


def test_the_shipped_kernels_are_in_the_title_and_the_others_have_a_line_each():
    record = record_of((-0.1, 0.1), (0.1, 0.2))
    assert conditions_of(record) == ["noisy"]
    ax = Figure().subplots()
    draw_terms(record, [ax])
    assert ax.get_title() == "noisy: shipped 0.600"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["v1", "v0"]
