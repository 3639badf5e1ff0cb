"""What a page shows of a kernel besides its verdict."""

from dataclasses import replace

import numpy as np
import pytest

from iak.pipeline.publish.diagnostics import curves_of, mean_rate
from iak.pipeline.publish.gate import GateRows, TaskRows
from tests.unit.publish.test_publish_bundles import paired

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
