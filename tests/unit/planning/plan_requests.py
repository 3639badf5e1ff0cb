"""Requests for a plan of a base of the planted log's shape, in sizes of choice."""

from pathlib import Path

from iak.pipeline.planning.assess import FrozenPrecisions, PlanRequest
from iak.pipeline.planning.estimate import JobSettings, Level
from iak.pipeline.planning.workload import workload
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.sharding.placement_search import Wanted
from iak.schemas.job import DomainStageSpec, KernelSpec, ModelSpec, StageSpec
from iak.schemas.plan import PlacementRuleSpec

SMALL = {"category": 1000, "region": 100, "daypart": 10, "scene": 10, "weekday": 9}


SMALL |= {"age_group": 12, "user_segment": 100, "shop_id": 100_000}


MLP = ModelSpec(trunk="mlp", width=64, mlp=(256, 128), expert_width=64, tower_width=32)


STAGES = (
    Level(name="pooled", kernels=1, stage=StageSpec()),
    Level(name="domains", kernels=1000, stage=DomainStageSpec()),
)


def a_request(users=10_000_000, items=1_000_000, precision=None, model=MLP, **limits):
    catalog = load_catalog(Path("planted"))
    rows = SMALL | {"user_id": users, "item_id": items}
    work = workload(catalog, model, KernelSpec(), rows=rows, ids={"history": 7.5}, domains=1000)
    return PlanRequest(
        work=work,
        settings=JobSettings(
            batch_rows=65_536, rows=10**7, passes=1.0, levels=STAGES, bf16=False, kept_bytes=2,
            cache_gib=6.0,
        ),
        wanted=Wanted(
            shapes=work.shapes, ids=work.ids, placement=PlacementRuleSpec(), batch_rows=65_536
        ),
        frozen=FrozenPrecisions(precision=precision, precisions={}) if precision else None,
        **limits,
    )  # fmt: skip
