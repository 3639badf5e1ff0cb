import math

import numpy as np
import pytest

from iak.pipeline.base.validation import qualities_of, quality_of
from iak.pipeline.model.loss import TaskShape

TASKS = (
    TaskShape(name="ctr", kind="click"),
    TaskShape(name="cvr", kind="conversion", given=0, entire="ctcvr"),
)


@pytest.mark.parametrize(
    ("labels", "p", "told"),
    [
        ([], [], "no labelled validation row"),
        ([0, 0], [0.1, 0.2], "no positive validation row, so no AUC"),
        ([1, 1], [0.1, 0.2], "no negative validation row, so no AUC"),
        ([1, 0], [math.nan, 0.2], "1 of 2 predictions are not finite"),
        ([1, 0], [math.inf, math.nan], "2 of 2 predictions are not finite"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_no_number(labels, p, told):
    found = quality_of("ctr", np.array(labels, np.float32), np.array(p, np.float32))
    assert (found.auc, found.reason) == (None, told)
    assert found.rows == len(labels)
    assert found.calibration is None or sum(labels)


def test_a_sound_task_has_every_number():
    labels, p = np.array([1, 0, 0, 1], np.float32), np.array([0.9, 0.2, 0.8, 0.6], np.float32)
    found = quality_of("ctr", labels, p)
    assert (found.rows, found.positives, found.auc, found.reason) == (4, 2, 0.75, "")
    assert found.calibration == pytest.approx(2.5 / 2)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.8, 0.2, 0.6]).mean(), rel=1e-6)


def test_a_conversion_counts_on_clicked_rows_and_over_all_rows():
    """Rows: clicked and bought, clicked, neither, and one whose click is not known."""
    seen = {
        "labels": np.array([[1, 1], [1, 0], [0, 0], [math.nan, 0]], np.float32),
        "mask": np.array([[1, 1], [1, 1], [1, 1], [0, 1]], np.float32),
        "own": np.full((4, 2), 0.5, np.float32),
        "entire": np.full((4, 2), 0.25, np.float32),
    }
    found = {quality.task: quality for quality in qualities_of(seen, TASKS)}
    assert {name: (q.rows, q.positives) for name, q in found.items()} == {
        "ctr": (3, 2), "cvr": (2, 1), "ctcvr": (4, 1),
    }  # fmt: skip
    assert found["cvr"].calibration == 1.0
    assert found["ctcvr"].calibration == 1.0
