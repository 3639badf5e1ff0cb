"""A kernel that ranks well over all rows and badly within users is held."""

import numpy as np
import pytest

from iak.pipeline.publish.gate import GateRows, TaskRows, judge
from iak.pipeline.publish.gauc_harm import gaucs_of, held_by_gauc
from iak.schemas.job import GateSpec

USERS, ROWS = 200, 20


def rows_of(within):
    """Users with rates of their own; the kernel knows the rates, and `within` of each row."""
    draw = np.random.default_rng(0)
    rate = np.repeat(draw.normal(size=USERS), ROWS)
    own = draw.normal(size=USERS * ROWS)
    labels = (draw.random(own.size) < 1 / (1 + np.exp(-rate - own))).astype(float)
    base, kernel = (1 / (1 + np.exp(-logit)) for logit in (own, rate + within * own))
    task = TaskRows(
        task="ctr", mask_n=np.ones(own.size, np.bool_), labels_n=labels, base_p_n=base,
        kernel_p_n=kernel, gain_n=np.zeros(own.size),
    )  # fmt: skip
    return GateRows(tasks=(task,), users_n=np.repeat(np.arange(USERS), ROWS))


@pytest.mark.parametrize(("within", "is_harm"), [(0.0, True), (0.3, False), (1.0, False)])
def test_ranking_within_users_is_judged_by_itself(within, is_harm):
    """A kernel that knows nothing of a row but its user is better by AUC, and useless to users."""
    rows = rows_of(within)
    verdict = judge(rows)
    (task,), (gaucs,) = verdict.tasks, gaucs_of([rows], [verdict], GateSpec())
    gauc = gaucs["ctr"]
    assert task.auc.delta > -0.01
    assert not task.holds
    held = held_by_gauc(task, gauc, GateSpec())
    assert held.holds == gauc.harm == is_harm
    assert ("GAUC" in held.reason) == is_harm


def test_no_harm_is_shown_by_rows_that_are_not_judged_or_have_no_users():
    rows, many = rows_of(0.0), GateSpec(min_positives=USERS * ROWS)
    each = [rows, *(GateRows(tasks=rows.tasks, users_n=u) for u in (None, np.arange(rows.rows)))]
    of_users, without, single = gaucs_of(each, [judge(rows, many) for rows in each], many)
    assert not of_users["ctr"].harm
    assert without == single == {}
