"""What is seen in the columns of a given base, and what it is said to mean."""

import math

import pyarrow as pa
import pytest

from iak.pipeline.base.given_columns import ColumnFindings, advice
from iak.schemas.adoption import ColumnRange, GivenQuality
from iak.schemas.training import TaskQuality
from tests.builders import batch_of
from tests.given_log import given_catalog, given_rows


def seen(*parts):
    columns = ColumnFindings(given_catalog())
    for part in parts:
        rows = batch_of(given_rows(4, "a"))
        index = rows.schema.get_field_index("logit_ctr")
        columns.add(rows.set_column(index, "logit_ctr", pa.array(part)))
    return columns


def problems(columns, allowed=0.0):
    return "\n".join(columns.problems(max_unusable_share=allowed))


def quality(auc):
    task = TaskQuality(task="ctr", rows=9, positives=3, auc=auc)
    return GivenQuality(tasks=(task,), domains=())


def test_ranges_are_those_of_all_parts_without_what_is_not_finite():
    columns = seen([1.0, -2.0, 0.0, math.nan], [3.0, math.inf, 0.5, None])
    assert ColumnRange(column="logit_ctr", low=-2.0, high=3.0) in columns.ranges()
    assert columns.rows == 8
    assert columns.unusable["no finite logit in logit_ctr"] == 3


@pytest.mark.parametrize(
    ("allowed", "is_refused"), [(0.0, True), (0.2, True), (0.25, False), (1.0, False)]
)
def test_unusable_rows_are_refused_beyond_the_share_that_is_allowed(allowed, is_refused):
    columns = seen([1.0, -2.0, math.nan, 0.0])
    assert ("1 of 4 rows" in problems(columns, allowed)) == is_refused


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.1, 0.9, 0.5, 0.0], "as those of a probability do"),
        ([0.1, 0.9, 0.5, 1.1], ""),
        ([0.1, 0.9, 0.5, -0.1], ""),
        ([2.0] * 4, "logit_ctr is 2 in every row"),
    ],
)
def test_probabilities_and_constants_are_no_logits(values, says):
    found = problems(seen(values))
    assert (says in found) if says else not found


@pytest.mark.parametrize(("size", "is_advised"), [(29.0, False), (31.0, True), (-31.0, True)])
def test_a_certainty_that_no_log_supports_is_pointed_at(size, is_advised):
    lines = advice(seen([size, 0.0, 1.0, -1.0]), quality(0.7))
    assert bool(lines) == is_advised


@pytest.mark.parametrize(("auc", "is_advised"), [(0.49, True), (0.51, False), (None, False)])
def test_a_rank_worse_than_chance_is_pointed_at(auc, is_advised):
    lines = advice(seen([1.0, 0.0, 2.0, -1.0]), quality(auc))
    assert [("ranks worse than chance" in line) for line in lines] == [True] * is_advised
