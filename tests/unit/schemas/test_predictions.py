"""Which tasks metrics judge, on which rows, and what undoes the sampling."""

import pytest

from iak.schemas.predictions import metric_tasks
from iak.schemas.task import TaskSpec

CLICK = TaskSpec(label="click", kind="click")
ORDER = TaskSpec(label="order", kind="conversion")
LIKE = TaskSpec(label="like")


def test_a_conversion_is_judged_given_its_click_and_over_all_rows():
    own, entire = metric_tasks([CLICK, ORDER], negatives_kept=0.1)[1:]
    assert (own.name, own.space, own.given) == ("cvr", "own", "ctr")
    assert (entire.name, entire.task, entire.space, entire.given) == ("ctcvr", "cvr", "all", None)


def test_tuning_lowers_the_loss_of_a_conversion_over_all_rows_alone():
    tasks = metric_tasks([CLICK, ORDER, LIKE], negatives_kept=1.0)
    assert [(task.name, task.has_loss) for task in tasks] == [
        ("ctr", True),
        ("cvr", False),
        ("ctcvr", True),
        ("like", True),
    ]


def test_among_clicked_rows_no_negative_was_dropped():
    kept = {task.name: task.kept for task in metric_tasks([CLICK, ORDER, LIKE], negatives_kept=0.2)}
    assert kept == {"ctr": 0.2, "cvr": 1.0, "ctcvr": 0.2, "like": 0.2}


@pytest.mark.parametrize("kind", ["conversion", "binary"])
def test_without_a_click_every_task_is_judged_once_over_all_rows(kind):
    (task,) = metric_tasks([TaskSpec(label="order", kind=kind)], negatives_kept=0.5)
    assert (task.space, task.given, task.kept, task.has_loss) == ("own", None, 0.5, True)
