"""A kernel's gate rows, task by task, as metrics read them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.publish.gate_tasks import gate_rows_of
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.schemas.predictions import metric_tasks
from iak.schemas.task import TaskSpec

SPECS = (
    TaskSpec(label="order", kind="conversion"),
    TaskSpec(label="click", kind="click"),
    TaskSpec(label="like"),
)
TASKS = metric_tasks(SPECS, negatives_kept=0.5)
TITLES = [task.title for task in SPECS]
ROWS = 12


def paired(seed=0, *, rows=ROWS, masked=0.3):
    draw = np.random.default_rng(seed)
    floats = {
        name: draw.random((rows, 3), np.float32)
        for name in PairedRows.__dataclass_fields__
        if name.endswith("_nT") and name not in ("labels_nT", "mask_nT")
    }
    return PairedRows(
        labels_nT=draw.integers(0, 2, (rows, 3)).astype(np.float32),
        mask_nT=draw.random((rows, 3)) >= masked,
        user_n=draw.integers(0, 4, rows),
        **floats,
    )


def by_name(rows, titles=TITLES):
    return {task.task: task for task in gate_rows_of(rows, titles, TASKS).tasks}


def test_a_conversion_is_two_tasks_and_columns_are_found_by_title():
    rows = paired()
    tasks = by_name(rows)
    assert list(tasks) == ["cvr", "ctcvr", "ctr", "like"]
    assert np.array_equal(tasks["ctr"].labels_n, rows.labels_nT[:, 1])
    assert np.array_equal(tasks["cvr"].kernel_p_n, rows.candidate_own_nT[:, 0])
    assert np.array_equal(tasks["ctcvr"].kernel_p_n, rows.candidate_entire_nT[:, 0])
    assert np.array_equal(tasks["ctcvr"].base_p_n, rows.base_entire_nT[:, 0])


@given(st.integers(0, 999), st.floats(0, 1))
def test_a_conversion_by_itself_is_judged_where_its_click_happened(seed, masked):
    rows = paired(seed, masked=masked)
    tasks = by_name(rows)
    clicked = (rows.labels_nT[:, 1] == 1) & rows.mask_nT[:, 1]
    assert np.array_equal(tasks["cvr"].mask_n, rows.mask_nT[:, 0] & clicked)
    assert np.array_equal(tasks["ctcvr"].mask_n, rows.mask_nT[:, 0])


def test_a_gain_belongs_to_the_event_whose_loss_tuning_lowers():
    rows = paired()
    tasks = by_name(rows)
    lowered = rows.base_loss_nT.astype(np.float64) - rows.candidate_loss_nT
    assert tasks["cvr"].gain_n is None
    assert np.array_equal(tasks["ctcvr"].gain_n, lowered[:, 0])
    assert np.array_equal(tasks["ctr"].gain_n, lowered[:, 1])
    assert tasks["ctr"].gain_n.dtype == np.float64


def test_sampled_negatives_are_corrected_except_among_clicked_rows():
    assert {name: task.kept for name, task in by_name(paired()).items()} == {
        "cvr": 1.0,
        "ctcvr": 0.5,
        "ctr": 0.5,
        "like": 0.5,
    }


def test_a_kernel_without_gate_rows_has_every_task_without_rows():
    gate = gate_rows_of(None, TITLES, TASKS)
    assert [task.task for task in gate.tasks] == ["cvr", "ctcvr", "ctr", "like"]
    assert {len(task.mask_n) for task in gate.tasks} == {0}
    assert gate.users_n is None


def test_a_task_that_the_rows_do_not_have_is_an_error():
    with pytest.raises(KeyError, match="like"):
        by_name(paired(), titles=["cvr", "ctr", "other"])
