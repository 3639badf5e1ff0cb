"""A recalibration finds the line that the labels follow, and stays at the base where it must."""

import numpy as np
import pytest
import torch

from iak.pipeline.model.loss import TaskShape
from infra.benchmarks.quality.calibration import fit_lines
from infra.benchmarks.quality.setup import FrozenRows

TASKS = (
    TaskShape(name="ctr", kind="click"),
    TaskShape(name="cvr", kind="conversion", given=0, entire="ctcvr"),
)
SLOPES, BIASES = torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 0.5])


@pytest.fixture(scope="module")
def drawn():
    """Logits, and labels that follow another line of them; orders of clicked rows alone."""
    generator = torch.Generator().manual_seed(3)
    logits_NT = torch.randn(40_000, 2, generator=generator)
    p_NT = (SLOPES * logits_NT + BIASES).sigmoid()
    labels_NT = (torch.rand(40_000, 2, generator=generator) < p_NT).float()
    labels_NT[:, 1] *= labels_NT[:, 0]
    rows = FrozenRows(
        h_NH=logits_NT,
        x_NX=logits_NT,
        s_NS=logits_NT[:, :0],
        labels_NT=labels_NT,
        mask_NT=torch.ones(40_000, 2, dtype=torch.bool),
        domains=("d",) * 40_000,
    )
    return logits_NT, rows


def test_the_line_that_labels_follow_is_found(drawn):
    lines = fit_lines(*drawn, TASKS, penalty=1e-3, with_slope=True)
    np.testing.assert_allclose(lines, torch.stack([SLOPES, BIASES], dim=1), atol=0.08)


def test_a_bias_alone_makes_predictions_right_on_average(drawn):
    logits_NT, rows = drawn
    lines = fit_lines(*drawn, TASKS, penalty=1e-6, with_slope=False)
    assert lines[:, 0].tolist() == [1.0, 1.0]
    clicked_N = rows.labels_NT[:, 0] == 1
    for task, counted_N in ((0, torch.ones_like(clicked_N)), (1, clicked_N)):
        p_N = (logits_NT[counted_N, task].double() + lines[task, 1]).sigmoid()
        assert float(p_N.mean()) == pytest.approx(
            float(rows.labels_NT[counted_N, task].mean()), abs=1e-4
        )


def test_a_heavy_penalty_leaves_the_base(drawn):
    lines = fit_lines(*drawn, TASKS, penalty=1e12, with_slope=True)
    np.testing.assert_allclose(lines, [[1.0, 0.0]] * 2, atol=1e-4)


def test_without_a_counted_row_nothing_changes(drawn):
    logits_NT, rows = drawn
    none = rows.take(torch.arange(0))
    assert fit_lines(logits_NT[:0], none, TASKS, penalty=1.0, with_slope=True).tolist() == [
        [1.0, 0.0],
        [1.0, 0.0],
    ]
