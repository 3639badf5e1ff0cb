"""Plans name ranks that exist, and a placement stands in one place."""

import pytest
from pydantic import ValidationError

from iak.schemas.job import EvaluateSpec, FinetuneSpec, PlanSpec, PretrainSpec
from iak.schemas.nightly import NightlySpec
from iak.schemas.plan import PlacementSpec, PlanDocument, ResolvedPlacement

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


def test_a_resolved_placement_has_the_plan_and_no_file():
    asked = PlacementSpec(sharding={"item": "row_wise"}, row_wise_from_rows=7, plan="plan.json")
    assert asked.resolved(plan()) == ResolvedPlacement(
        sharding={"item": "row_wise"}, row_wise_from_rows=7, plan=plan()
    )
    with pytest.raises(ValidationError, match="plan"):
        ResolvedPlacement(plan="plan.json")


@pytest.mark.parametrize("kind", [PretrainSpec, FinetuneSpec, EvaluateSpec, PlanSpec])
@pytest.mark.parametrize("flat", [{"row_wise_from_rows": 7}, {"sharding": {"item": "row_wise"}}])
def test_a_setting_of_the_placement_beside_it_is_refused_by_its_new_name(kind, flat):
    (name,) = flat
    with pytest.raises(ValidationError, match=f"{name} is now placement.{name}"):
        kind(**flat)


def test_a_night_of_flat_settings_is_refused_by_the_new_name():
    with pytest.raises(ValidationError, match=r"finetune\n.*plan is now placement.plan"):
        NightlySpec(finetune={"plan": "plan.json"})


@pytest.mark.parametrize("kind", [EvaluateSpec, PlanSpec])
def test_what_follows_no_plan_takes_none(kind):
    with pytest.raises(ValidationError, match=r"placement\.plan"):
        kind(placement={"plan": "plan.json"})
