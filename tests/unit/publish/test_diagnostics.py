"""What a page shows of a kernel besides its verdict."""

from dataclasses import replace

import numpy as np
import pytest

from iak.pipeline.iak.kernel import fresh
from iak.pipeline.publish.diagnostics import code_of, curves_of, mean_rate
from iak.pipeline.publish.gate import GateRows, TaskRows
from iak.pipeline.publish.gate_tasks import gate_rows_of
from iak.pipeline.tuning.gate_rows import CodeMoments
from tests.unit.iak.small import SHAPE
from tests.unit.publish.test_publish_bundles import TASKS, paired

ROWS = 1000


def test_the_rate_is_the_mean_over_the_gate_rows():
    rates = np.linspace(0, 3, ROWS, dtype=np.float32)
    assert mean_rate(replace(paired(0.1, rows=ROWS), rate_n=rates)) == pytest.approx(1.5)


def test_without_rows_there_is_no_rate():
    assert mean_rate(None) is None
    assert mean_rate(paired(0.1, rows=ROWS)) is None
    assert mean_rate(replace(paired(0.1, rows=0), rate_n=np.zeros(0, np.float32))) is None


def test_a_curve_is_of_the_kernel_and_of_the_rows_that_count():
    draw = np.random.default_rng(0)
    p = draw.uniform(0.1, 0.9, ROWS)
    labels = (draw.random(ROWS) < p).astype(np.float32)
    counts = np.arange(ROWS) % 2 == 0
    task = TaskRows(
        task="ctr", mask_n=counts, labels_n=labels, base_p_n=np.full(ROWS, 0.5), kernel_p_n=p
    )
    bare = replace(task, task="cvr", mask_n=np.zeros(ROWS, np.bool_))
    curves = curves_of(GateRows(tasks=(task, bare)))
    assert set(curves) == {"ctr"}, "a task without rows has no curve"
    assert sum(rows for *_, rows in curves["ctr"]) == ROWS // 2
    mean = sum(predicted * rows for predicted, _, rows in curves["ctr"]) / (ROWS // 2)
    assert mean == pytest.approx(p[counts].mean())


def coded(deviations, better=0.5):
    """Gate rows whose code has units of these standard deviations around 3."""
    draw = np.random.default_rng(1)
    code_BC = 3 + draw.normal(size=(ROWS, len(deviations))) * deviations
    moments = CodeMoments(rows=ROWS, sums_C=code_BC.sum(0), squares_C=(code_BC**2).sum(0))
    return replace(paired(better, rows=ROWS), code=moments)


def measured(rows, kernel=None, pooled=None):
    return code_of(rows, gate_rows_of(rows, ("ctr", "cvr"), TASKS), kernel or {}, pooled)


def test_a_unit_is_active_where_its_mean_varies_by_more_than_a_hundredth():
    code = measured(coded([0.0, 0.05, 0.2, 1.0]))
    assert (code.units, code.active_units) == (4, 2)
    assert code.flaw() == ""


def test_a_better_kernel_tells_more_nats_about_the_label_than_the_base():
    better, worse = measured(coded([1.0])).label_nats, measured(coded([1.0], -0.5)).label_nats
    assert set(better) == {"ctr", "cvr", "ctcvr"}
    assert better["ctr"][1] > better["ctr"][0] > worse["ctr"][1]
    assert better["ctr"][0] == worse["ctr"][0]


def test_the_distance_of_priors_is_zero_for_equal_ones_and_that_of_gaussians_else():
    kernel = fresh(SHAPE, seed=0)
    assert measured(coded([1.0]), kernel).prior_distance is None
    assert measured(coded([1.0]), kernel, kernel).prior_distance == 0
    moved = kernel | {"prior_mean": kernel["prior_mean"] + 2.0}
    # Both have variance 1, so that each unit adds half the squared distance of the means.
    assert measured(coded([1.0]), moved, kernel).prior_distance == pytest.approx(2.0 * SHAPE.code)


def test_a_collapsed_code_and_a_kernel_that_does_nothing_are_named():
    collapsed = measured(coded([0.0, 0.01]))
    assert collapsed.flaw() == (
        "0 of 2 units of the code are active: the code has collapsed, and every row gets the same "
        "correction"
    )
    rows = coded([0.0, 0.01])
    dead = replace(rows, candidate_own_nT=rows.base_own_nT)
    assert measured(dead).flaw() == (
        "0 of 2 units of the code are active, and no probability changes: the kernel does nothing"
    )


def test_without_gate_rows_nothing_is_said_of_the_code():
    assert code_of(None, GateRows(tasks=()), {}, None) is None
    assert measured(paired(0.1, rows=ROWS)) is None
