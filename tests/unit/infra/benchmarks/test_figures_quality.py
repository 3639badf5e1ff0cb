"""The picture of the league: a panel a log, a line a method, and no line without an interval."""

from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure

from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.figures_quality import draw_quality, logs_of


def line(log, method, *, delta=0.001, seeds=2, **changes):
    fields = {
        "table": "league", "is_first": True, "log": log, "method": method, "task": "ctr",
        "auc": 0.7, "delta_auc": delta, "low": 0.0005, "high": 0.0015, "seeds": seeds,
        "lowest_seed": 0.0008, "highest_seed": 0.0012,
    }  # fmt: skip
    return fields | changes


def panels(rows):
    record = BenchmarkRecord(
        bench="quality", spec={}, is_smoke=False, command="iak", rows=rows, seconds=1.0,
        started_at=datetime(2026, 10, 1, tzinfo=UTC),
    )  # fmt: skip
    axes = Figure().subplots(1, max(1, len(logs_of(record))), squeeze=False)[0]
    draw_quality(record, axes)
    return axes


ROWS = [
    line("xmrec", "base", delta=None, low=None, high=None),
    line("xmrec", "iak"),
    line("xmrec", "dense", seeds=1),
    line("frappe", "iak"),
    line("xmrec", "iak", is_first=False, task="cvr"),
    {"table": "pairs", "log": "other"},
]


def test_every_log_of_the_league_has_a_panel_in_its_order():
    titles = [ax.get_title() for ax in panels(ROWS)]
    assert titles == ["xmrec, ctr, base 0.7000", "frappe, ctr"]


def test_the_first_method_stands_on_top_and_differences_are_in_their_unit():
    ax = panels(ROWS)[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dense", "iak", "base"]
    points = [ln for ln in ax.get_lines() if ln.get_marker() == "o"]
    assert [float(point.get_xdata()[0]) for point in points] == pytest.approx([10, 10])


def test_a_method_without_an_interval_says_so_and_one_seed_has_no_crosses():
    ax = panels(ROWS)[0]
    assert [text.get_text().strip() for text in ax.texts] == ["no interval"]
    crosses = [ln for ln in ax.get_lines() if ln.get_marker() == "x"]
    assert len(crosses) == 1
