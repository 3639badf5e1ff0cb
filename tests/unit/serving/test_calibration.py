"""Sums of what was served and of its labels are those of the rows, in whatever order both come."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing
from iak.pipeline.serving.calibration import MAX_VERSIONS, ServedCalibration
from iak.schemas.predictions import metric_tasks
from tests.unit.serving.shop import shop_catalog

TASKS = metric_tasks(shop_catalog().tasks, negatives_kept=1.0)
KERNELS = ("pooled", "region=rome")
ROWS = 12


def key_of(row):
    return hashing.keys_of(pa.array([row]))


def scores(rows, version="v1"):
    """Predictions of rows; each probability is a function of row and task."""
    columns = {
        "row": np.concatenate([key_of(row) for row in rows]).view(np.int64),
        "id": [str(row) for row in rows],
    }
    columns |= {
        f"p.{task.name}": [probability(row, t) for row in rows] for t, task in enumerate(TASKS)
    }
    columns |= {"kernel": [KERNELS[row % 2] for row in rows], "version": [version] * len(rows)}
    return pa.table(columns)


def probability(row, task):
    return (1 + row + task) / (ROWS + len(TASKS) + 1)


def labels_of(rows, labels):
    """Labels of rows as a log has them: of row r the r-th pair of `labels`."""
    pairs = [labels[row] for row in rows]
    keys = np.concatenate([key_of(row) for row in rows])
    return keys, {
        title: np.array([math.nan if pair[n] is None else pair[n] for pair in pairs])
        for n, title in enumerate(("ctr", "cvr"))
    }


def lines_of(calibration):
    return {
        (line.kernel, line.version, line.task): (
            line.sums.rows, round(line.sums.predicted, 9), line.sums.observed,
        )
        for line in calibration.lines()
    }  # fmt: skip


def expected(rows, labels):
    """The sums by their definition: every served row with a known label counts once."""
    sums = {}
    for row in rows:
        click, order = labels[row]
        for t, task in enumerate(TASKS):
            label = click if task.task == "ctr" else order
            given = 1 if task.given is None else click
            if given and label is not None:
                name = (KERNELS[row % 2], "v1", task.name)
                count, p, y = sums.get(name, (0, 0.0, 0.0))
                sums[name] = (count + 1, p + probability(row, t), y + label)
    return {name: (count, round(p, 9), y) for name, (count, p, y) in sums.items()}


PAIRS = st.sampled_from([(0, 0), (1, 0), (1, 1), (1, None), (None, None), (0, None)])


@given(
    served=st.lists(st.integers(0, ROWS - 1), unique=True, min_size=1),
    labels=st.lists(PAIRS, min_size=ROWS, max_size=ROWS),
    parts=st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1), max_size=6),
)
def test_every_served_row_counts_once_in_whatever_parts_its_labels_come(served, labels, parts):
    calibration = ServedCalibration(TASKS, rows=ROWS, share=1.0)
    calibration.add(scores(served))
    for part in parts:
        calibration.join(*labels_of(part, labels))
    labelled = {row for part in parts for row in part}
    assert lines_of(calibration) == expected([row for row in served if row in labelled], labels)
    calibration.join(*labels_of(range(ROWS), labels))
    assert lines_of(calibration) == expected(served, labels)


@given(labels=st.lists(PAIRS, min_size=ROWS, max_size=ROWS))
def test_a_label_that_ripens_later_counts_for_its_task_alone(labels):
    calibration = ServedCalibration(TASKS, rows=ROWS, share=1.0)
    calibration.add(scores(range(ROWS)))
    unripe = [(click, None) for click, _ in labels]
    calibration.join(*labels_of(range(ROWS), unripe))
    assert lines_of(calibration) == expected(range(ROWS), unripe)
    calibration.join(*labels_of(range(ROWS), labels))
    assert lines_of(calibration) == expected(range(ROWS), labels)


def test_what_is_kept_is_bounded_and_the_oldest_predictions_give_way():
    calibration = ServedCalibration(TASKS, rows=3, share=1.0)
    calibration.add(scores([0, 1, 2]))
    calibration.add(scores([0, 5]))  # row 0 is asked again, so that row 1 is the oldest
    assert calibration.waiting == 3
    everything = [(1, 1)] * ROWS
    assert calibration.join(*labels_of(range(ROWS), everything)) == 3
    assert lines_of(calibration) == expected([0, 2, 5], everything)
    assert calibration.waiting == 0


def test_a_share_of_the_rows_is_kept_and_always_the_same_ones():
    halves = [ServedCalibration(TASKS, rows=10_000, share=0.5) for _ in range(2)]
    halves[0].add(scores(range(1000)))
    for first in range(0, 1000, 100):
        halves[1].add(scores(range(first, first + 100)))
    assert 400 < halves[0].waiting < 600
    assert halves[0].join(*labels_of(range(1000), [(1, 1)] * 1000)) == halves[1].waiting
    assert halves[1].join(*labels_of(range(1000), [(1, 1)] * 1000)) > 400
    assert lines_of(halves[0]) == lines_of(halves[1])


def test_rows_without_an_id_or_a_kernel_are_left_out():
    calibration = ServedCalibration(TASKS, rows=9, share=1.0)
    table = scores([1, 2, 3])
    table = table.set_column(1, "id", pa.array(["1", None, "3"]))
    kernels = pa.array(["pooled", "pooled", None])
    calibration.add(table.set_column(table.schema.get_field_index("kernel"), "kernel", kernels))
    assert calibration.waiting == 1


def test_sums_of_the_last_versions_of_a_kernel_are_kept():
    calibration = ServedCalibration(TASKS, rows=99, share=1.0)
    for number in range(MAX_VERSIONS + 1):
        calibration.add(scores([2 * number], version=f"v{number}"))
    calibration.join(*labels_of(range(ROWS), [(1, 1)] * ROWS))
    versions = {line.version for line in calibration.lines()}
    assert versions == {f"v{number}" for number in range(1, MAX_VERSIONS + 1)}


def test_a_sampled_log_is_corrected_as_metrics_correct_it():
    kept = 0.25
    tasks = metric_tasks(shop_catalog().tasks[:1], negatives_kept=kept)
    calibration = ServedCalibration(tasks, rows=9, share=1.0)
    calibration.add(scores([2, 4]))
    calibration.join(*labels_of([2, 4], {2: (1, None), 4: (0, None)}))
    (line,) = calibration.lines()
    full = [p / (p + (1 - p) / kept) for p in (probability(2, 0), probability(4, 0))]
    assert math.isclose(line.sums.predicted, full[0] + full[1] / kept)
    assert (line.sums.rows, line.sums.observed) == (2, 1.0)
    assert math.isclose(line.sums.ratio, line.sums.predicted)
