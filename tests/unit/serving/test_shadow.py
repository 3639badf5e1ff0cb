"""Both sides answer the same rows, and what differs is counted by domain and task."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.serving.shadow import (
    CANDIDATE,
    LIVE,
    Replay,
    most_moved,
    predicted,
    score_changes,
)
from iak.schemas.predictions import MetricTask

TASKS = (MetricTask(name="ctr", task="ctr", space="own"),)
LIVE_P = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
CHANGE = np.array([0.05, 0.05, 0.05, 0.05, -0.4, 0.2])
LABELS = [0.0, 1.0, None, 1.0, 0.0, 1.0]


def table(**changes):
    columns = {
        "row": range(6), "id": [f"e{n}" for n in range(6)], "domain": ["a"] * 4 + ["b"] * 2,
        "user": [1, 1, 2, 2, 3, 3], "live_kernel": ["a"] * 6, "candidate_kernel": ["a"] * 6,
        "live.ctr": LIVE_P, "candidate.ctr": LIVE_P + CHANGE, "y.ctr": LABELS,
    }  # fmt: skip
    return pa.table(columns | changes)


def by_domain(rows, *, labels=True):
    return {change.domain: change for change in score_changes(rows, TASKS, labels=labels)}


def test_a_change_is_the_candidate_minus_live_by_domain_and_over_all_rows():
    found = by_domain(table())
    assert found["a"].mean == pytest.approx(0.05)
    assert found["a"].quantiles["p99"] == pytest.approx(0.05)
    assert found["b"].mean == pytest.approx(-0.1)
    assert found["b"].mean_absolute == pytest.approx(0.3)
    assert found["pooled"].mean == pytest.approx(CHANGE.mean())
    assert found["pooled"].quantiles["p50"] == pytest.approx(np.median(CHANGE))
    assert {name: change.rows for name, change in found.items()} == {"a": 4, "b": 2, "pooled": 6}


def test_ranks_are_those_within_a_user():
    found = by_domain(table())
    assert (found["a"].rank_correlation, found["a"].groups) == (pytest.approx(1.0), 2)
    assert (found["b"].rank_correlation, found["b"].groups) == (pytest.approx(1.0), 1)
    turned = table(**{"candidate.ctr": np.r_[LIVE_P[:4], LIVE_P[5], LIVE_P[4]]})
    assert by_domain(turned)["b"].rank_correlation == pytest.approx(-1.0)
    without = by_domain(table().drop_columns(["user"]))
    assert without["a"].groups == without["pooled"].groups == 1


def test_labels_give_auc_and_calibration_of_the_labelled_rows():
    found = by_domain(table())["a"]
    assert (found.labelled, found.positives) == (3, 2)
    known = [0, 1, 3]
    assert found.live_calibration == pytest.approx(LIVE_P[known].sum() / 2)
    assert found.candidate_calibration == pytest.approx((LIVE_P + CHANGE)[known].sum() / 2)
    assert found.live_auc == found.candidate_auc == 1.0


def test_without_labels_there_is_neither():
    found = by_domain(table().drop_columns(["y.ctr"]), labels=False)["a"]
    assert (found.labelled, found.live_auc, found.live_calibration) == (0, None, None)


def test_the_rows_that_moved_most_come_first():
    moved = most_moved(table(), TASKS, most=3)
    assert [row.id for row in moved] == ["e4", "e5", "e0"]
    assert (moved[0].live, moved[0].candidate) == (0.5, pytest.approx(0.1))
    assert most_moved(table(), TASKS, most=0) == []


def test_a_row_that_is_not_predicted_is_left_out():
    broken = table(live_kernel=["a", None, "a", "a", "a", "a"])
    assert predicted(broken).column("row").to_pylist() == [0, 2, 3, 4, 5]


def test_both_sides_answer_the_same_rows_and_each_in_turn_goes_first():
    asked = []

    class Side:
        def __init__(self, name):
            self.name = name
            self.schema = pa.schema(
                {"row": pa.int64(), "p.ctr": pa.float64(), "kernel": pa.string()}
            )

        def score(self, rows):
            asked.append(self.name)
            return pa.table({"row": rows.column("row"), "p.ctr": [0.5], "kernel": ["a"]}).cast(
                self.schema
            )

    replay = Replay({side: Side(side) for side in (LIVE, CANDIDATE)})
    for number in range(3):
        replay.add(pa.table({"row": [number]}), {"y.ctr": pa.array([1.0])})
    warm, measured = asked[:2], asked[2:]
    assert warm == [LIVE, CANDIDATE]
    assert measured == [LIVE, CANDIDATE, CANDIDATE, LIVE, LIVE, CANDIDATE]
    whole = replay.whole()
    assert whole.column("row").to_pylist() == [0, 1, 2]
    assert set(whole.schema.names) >= {"live.ctr", "candidate.ctr", "live_kernel", "y.ctr"}
    assert replay.latency > 0
