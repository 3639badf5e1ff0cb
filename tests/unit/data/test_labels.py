"""A task that no label teaches is refused before anything is trained."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog
from tests.builders import small_catalog

CATALOG = small_catalog()


def counted(click: list[float | None], order: list[float | None]) -> LabelCounts:
    counts = LabelCounts(CATALOG)
    rows = pa.RecordBatch.from_pydict(
        {"click": pa.array(click, pa.float64()), "order": pa.array(order, pa.float64())}
    )
    counts.add(rows, None)
    return counts


@pytest.mark.parametrize(
    ("click", "order", "expected"),
    [
        pytest.param([None, None], [0, 1], r"ctr \(click\): no row has a label", id="no label"),
        pytest.param([0, 0], [0, 1], r"ctr \(click\): none of its 2 labelled rows is positive"),
        pytest.param([0, 1], [1, 1], r"cvr \(order\): none of its 2 labelled rows is negative"),
        pytest.param([], [], r"(?s)ctr .*no row.*cvr .*no row", id="no rows"),
    ],
)
def test_a_task_without_labels_of_both_classes_is_refused_by_name(click, order, expected):
    with pytest.raises(BadLog, match=expected):
        counted(click, order).refuse_untrainable("pretrain")


def test_tasks_with_both_classes_are_trained_and_said_by_their_rows():
    counts = counted([0, 1, None, 1], [0, None, None, 1])
    counts.refuse_untrainable("tune")
    assert counts.describe() == "ctr 3 (2 positive), cvr 2 (1 positive)"


def test_a_task_of_no_weight_needs_no_label():
    document = CATALOG.model_dump()
    document["tasks"][1]["weight"] = 0.0
    counts = LabelCounts(Catalog.model_validate(document))
    counts.add(pa.RecordBatch.from_pydict({"click": [0, 1], "order": [0, 0]}), None)
    counts.refuse_untrainable("pretrain")


def test_labels_that_do_not_count_are_not_counted():
    counts = LabelCounts(CATALOG)
    rows = pa.RecordBatch.from_pydict({"click": [1, 0, 1], "order": [1, 0, 0]})
    counts.add(rows, np.array([True, False, False]), {"cvr": np.array([False, True, False])})
    assert (counts.known, counts.positive) == ({"ctr": 2, "cvr": 1}, {"ctr": 1, "cvr": 0})


def test_encoded_rows_and_all_workers_counts_are_taken_over():
    counts, other = LabelCounts(CATALOG), LabelCounts(CATALOG)
    y = pa.array([1.0, None, 0.0], pa.float32())
    counts.add_encoded(pa.table({"y.ctr": y, "y.cvr": y}))
    assert counts.counts() == {
        "known ctr": 2,
        "known cvr": 2,
        "positive ctr": 1,
        "positive cvr": 1,
    }
    other.update({name: 2 * count for name, count in counts.counts().items()})
    assert other.describe() == "ctr 4 (2 positive), cvr 4 (2 positive)"
