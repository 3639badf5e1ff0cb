"""The picture of a plan stacks each rank's memory by kind, below the limit of a plan."""

import pytest
from matplotlib.figure import Figure

from iak.jobs.figures_plan import draw_plan
from tests.unit.planning.test_estimate import GIB, estimated


def test_each_rank_is_a_bar_of_its_kinds_of_memory(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: written.append(figure))
    memory = ({"tables": 2 * GIB, "dense": GIB}, {"tables": 4 * GIB, "dense": GIB})
    estimate = estimated(memory=memory)
    draw_plan(estimate, tmp_path / "plan.png")
    (figure,) = written
    (ax,) = figure.axes
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [
        (0.0, 2.0), (0.0, 4.0), (2.0, 1.0), (4.0, 1.0),
    ]  # fmt: skip
    limit = next(line for line in ax.get_lines() if line.get_label() == "limit of a plan")
    assert limit.get_ydata()[0] == pytest.approx(estimate.usable_bytes / GIB)
