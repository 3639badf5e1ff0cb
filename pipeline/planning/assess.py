"""Assess whether a job fits on a cluster, and find the smallest change with which it fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.planning.estimate import LOOKED_UP_ROWS, Estimate, JobSettings, estimate, reserved
from iak.pipeline.planning.workload import Workload
from iak.pipeline.sharding.placement_rule import as_document, plan_tables
from iak.pipeline.sharding.placement_search import Wanted, search
from iak.pipeline.sharding.row_format import check_width
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import Precision
from iak.schemas.plan import Job, PlanDocument

_LOWER: Mapping[Precision, Precision] = {"fp32": "int8", "fp16": "int8", "int8": "int4"}
"""Precision -> the next lower one that a job may be planned with."""
_MAX_MACHINES = 128
"""Machines of the largest cluster that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPrecisions:
    """Precisions of a frozen base's tables."""

    precision: Precision
    """Precision of every table that `precisions` does not name."""
    precisions: Mapping[str, Precision]
    """Table -> precision."""

    def of(self, table: str) -> Precision:
        """Return a table's precision."""
        return self.precisions.get(table, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """A job, and the time and money that it may take."""

    work: Workload
    settings: JobSettings
    wanted: Wanted
    """The tables that are to be placed, and the user's wishes for them."""
    frozen: FrozenPrecisions | None
    """Precisions of frozen tables; None where tables are trained."""
    max_hours: float | None = None
    """Hours that the job may take; None for any."""
    max_cost: float | None = None
    """Price that the job may have, in the cluster's currency; None for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A job's estimate on one cluster, and whether it fits."""

    cluster: ClusterSpec
    estimate: Estimate
    problems: tuple[str, ...]
    """Why it does not fit; empty where it does."""

    @property
    def fits(self) -> bool:
        """Return whether the job fits in memory, time and money."""
        return not self.problems


def assess(request: PlanRequest, cluster: ClusterSpec) -> Assessment:
    """Plan a job on a cluster, estimate it, and compare the estimate with what it may take.

    The plan is the best one that TorchRec's planner finds. Where it finds none, it is the plan by
    rule, and the planner's reason is among the problems.

    Args:
        request: the job and its limits.
        cluster: the machines.

    Raises:
        BadRequest: a table cannot have the sharding type that the user asks for.
    """
    settings, work = request.settings, request.work
    refused: list[str] = []
    reserved_bytes = reserved(work, settings, cluster, is_trained=request.frozen is None)
    try:
        plan = search(_wanted(request, cluster), cluster, reserved_bytes=reserved_bytes)
        result = estimate(work, settings, cluster, plan.document, plan.planner_ms)
    except DoesNotFit as error:
        refused.append(str(error))
        result = _rule_estimate(request, cluster)
    problems = result.problems(max_hours=request.max_hours, max_cost=request.max_cost)
    return Assessment(cluster=cluster, estimate=result, problems=(*problems, *refused))


def _wanted(request: PlanRequest, cluster: ClusterSpec) -> Wanted:
    """Return the tables that the planner places.

    FrozenPrecisions tables are read while rows pass through the base, in steps of that many rows.
    """
    wanted, frozen = request.wanted, request.frozen
    if frozen is None:
        return wanted
    return replace(
        wanted,
        batch_rows=cluster.world * LOOKED_UP_ROWS,
        precisions={shape.name: frozen.of(shape.name) for shape in wanted.shapes},
    )


def rule_plan(request: PlanRequest, cluster: ClusterSpec) -> PlanDocument:
    """Return the plan by rule, which a job makes for itself where it is given none."""
    wanted, frozen = request.wanted, request.frozen
    plan = plan_tables(
        wanted.shapes,
        world=cluster.world,
        device=torch.device(cluster.device),
        rule=wanted.placement,
        ranks_per_host=cluster.devices_per_node,
    )
    job: Job = "finetune" if frozen else "pretrain"
    document = as_document(plan, job=job, world=cluster.world, cluster=cluster.name)
    if frozen is None:
        return document
    tables = tuple(
        table.model_copy(update={"precision": frozen.of(table.table)}) for table in document.tables
    )
    return document.model_copy(update={"tables": tables})


def smallest_change(
    request: PlanRequest,
    cluster: ClusterSpec,
    others: Sequence[ClusterSpec],
    more: Callable[[ClusterSpec, int], ClusterSpec],
) -> str:
    """Return the first change with which a job fits: lower precision, then the cheapest cluster.

    Args:
        request: the job, which does not fit on `cluster`.
        cluster: the machines.
        others: clusters of other kinds.
        more: returns a cluster of the same kind with a number of machines.
    """
    for lower in lower_precisions(request):
        if assess(lower, cluster).fits:
            assert lower.frozen is not None
            return f"tables.precision={lower.frozen.precision} would fit"
    grown = [more(kind, nodes) for kind in (cluster, *others) for nodes in _machine_counts()]
    # In the order of the price by rule, which is quick. The slow search runs until a cluster fits.
    for kind in sorted(grown, key=lambda kind: rule_price(request, kind)):
        if rule_price(request, kind)[0] == float("inf"):
            break
        other = assess(request, kind)
        if other.fits:
            return (
                f"cluster={kind.name} would fit: {other.estimate.hours:.2f} hours, "
                f"{other.estimate.cost:,.2f} {kind.currency}"
            )
    return (
        f"no shipped cluster of up to {_MAX_MACHINES} machines is enough; "
        "make tables smaller, or rows fewer"
    )


def _machine_counts() -> Iterator[int]:
    """Yield the numbers of machines that are tried: powers of two."""
    nodes = 1
    while nodes <= _MAX_MACHINES:
        yield nodes
        nodes *= 2


def rule_price(request: PlanRequest, cluster: ClusterSpec) -> tuple[float, int]:
    """Return the job's price under the plan by rule, and its workers, which decide between ties.

    The price is infinite where the job does not fit, or the rule has no plan.
    """
    try:
        result = _rule_estimate(request, cluster)
    except BadRequest:
        return float("inf"), cluster.world
    problems = result.problems(max_hours=request.max_hours, max_cost=request.max_cost)
    return (float("inf") if problems else result.cost), cluster.world


def _rule_estimate(request: PlanRequest, cluster: ClusterSpec) -> Estimate:
    """Estimate a job under the plan by rule, without a search."""
    plan = rule_plan(request, cluster)
    return estimate(request.work, request.settings, cluster, plan, 0.0)


def lower_precisions(request: PlanRequest) -> Iterator[PlanRequest]:
    """Yield the same job with ever lower precisions. Tables that `precisions` names keep theirs."""
    frozen = request.frozen
    while frozen is not None and (precision := _LOWER.get(frozen.precision)):
        frozen = replace(frozen, precision=precision)
        try:
            for shape in request.work.shapes:
                check_width(shape.name, frozen.of(shape.name), shape.width)
        except BadRequest:
            return
        yield replace(request, frozen=frozen)
