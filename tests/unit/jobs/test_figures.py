"""A record is drawn in panels under a heading that says where its numbers come from."""

from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure

from iak.jobs.figures import Picture, draw
from iak.schemas.record import BenchmarkRecord


@pytest.mark.parametrize("is_smoke", [True, False])
def test_a_heading_says_where_and_when_and_whether_numbers_count(tmp_path, monkeypatch, is_smoke):
    written = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: written.append(figure))
    record = BenchmarkRecord(
        bench="data", spec={}, is_smoke=is_smoke, command="iak", seconds=1.0, commit="abc",
        started_at=datetime(2026, 10, 1, tzinfo=UTC),
        machine={"cores": 2, "processor": "a processor"},
    )  # fmt: skip
    draw(record, Picture(fill=lambda _, axes: axes[1].set_title("two"), panels=3), tmp_path / "p")
    (figure,) = written
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["", "two", ""]
    title = figure.get_suptitle()
    assert "benchmark data · 2 cores, a processor · 2026-10-01 · commit abc" in title
    assert title.startswith("smoke sizes: the numbers mean nothing") == is_smoke
