"""A plan names ranks that exist, and says where every table lies."""

import pytest
from pydantic import ValidationError

from iak.schemas.plan import PlanDocument

SHARD = {"rank": 0, "row": 0, "rows": 10, "col": 0, "cols": 4}
TABLE = {"table": "item", "type": "row_wise", "rows": 10, "width": 4, "shards": [SHARD]}


def plan(**changes):
    fields = {"job": "pretrain", "world": 2, "tables": [TABLE]}
    return PlanDocument.model_validate(fields | changes)


def test_a_plan_survives_json():
    assert PlanDocument.model_validate_json(plan().model_dump_json()) == plan()
    assert plan().tables[0].precision == "fp32"


def test_a_shard_on_a_rank_that_no_worker_has_is_refused_by_its_table():
    shards = [SHARD, SHARD | {"rank": 2}, SHARD | {"rank": 5}]
    with pytest.raises(ValidationError, match=r"table item lies on ranks \[2, 5\].*2 workers"):
        plan(tables=[TABLE | {"shards": shards}])


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": []},
        {"world": 0},
        {"job": "serve"},
        {"format": 2},
        {"tables": [TABLE | {"shards": []}]},
        {"tables": [TABLE | {"precision": "int2"}]},
        {"tables": [TABLE | {"shards": [SHARD | {"cols": 0}]}]},
    ],
)
def test_what_is_no_plan_is_refused(changes):
    with pytest.raises(ValidationError):
        plan(**changes)
