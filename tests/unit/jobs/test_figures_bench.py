"""The pictures of `iak bench` show each measured table, and the shares of each measured step."""

from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure

from iak.jobs.figures_bench import picture_of
from iak.schemas.record import BenchmarkRecord
from iak.schemas.scaling_result import SharesLine
from iak.schemas.sharding_result import LayoutLine
from tests.unit.jobs.test_bench import LINES


def drawn(bench, rows):
    record = BenchmarkRecord(
        bench=bench, spec={}, is_smoke=False, command="iak", seconds=1.0, rows=rows,
        started_at=datetime(2026, 10, 1, tzinfo=UTC),
    )  # fmt: skip
    picture = picture_of(record)
    axes = Figure().subplots(1, picture.panels, squeeze=False)[0]
    picture.fill(record, axes)
    return axes


def layout(table, ms):
    return LayoutLine(
        table=table, way="row trained fp32", launcher="ray", sharding="row_wise", held="trained",
        precision="fp32", p50_ms=ms,
    ).as_row()  # fmt: skip


@pytest.mark.parametrize(("measured", "panels"), [(1, 1), (2, 2), (4, 3)])
def test_each_measured_table_has_a_panel_up_to_three(measured, panels):
    rows = [layout("nothing was measured", None), *(layout(f"t{n}", 2.0) for n in range(measured))]
    axes = drawn("sharding", [*rows, {"table": "launchers", "launcher": "ray", "whole_s": 3.0}])
    assert [ax.get_title() for ax in axes] == [f"t{n}" for n in range(panels)]
    assert [bar.get_height() for bar in axes[0].patches] == [2.0]


def test_shares_of_a_step_are_drawn_one_after_the_other():
    parts = {"input": 0.25, "compute": 0.5, "all_reduce": 0.25}
    line = SharesLine.model_validate(
        {"workload": "tuning", "scaling": "weak", "workers": 2, **parts}
    )
    kept = [r for r in LINES["scaling"] if r["table"] != line.table]
    *_, shares = drawn("scaling", [*kept, line.as_row()])
    assert [(bar.get_x(), bar.get_width()) for bar in shares.patches] == [
        (0.0, 0.25), (0.25, 0.5), (0.75, 0.25),
    ]  # fmt: skip
