"""Decide whether a job fits on a cluster, and find the smallest change with which it fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from iak.pipeline.errors import BadRequest, DoesNotFit
from iak.pipeline.planning.estimate import LOOKED_UP_ROWS, Asked, Estimate, estimate, reserved
from iak.pipeline.planning.workload import Workload
from iak.pipeline.sharding.placement_rule import as_document, plan_tables
from iak.pipeline.sharding.placement_search import Wanted, search
from iak.pipeline.sharding.quantised import check_width
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import Precision
from iak.schemas.plan import Job, PlanDocument

_SMALLER: Mapping[Precision, Precision] = {"fp32": "int8", "fp16": "int8", "int8": "int4"}
_MAX_MACHINES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Precisions of a frozen base's tables."""

    precision: Precision
    """Precision of every table that `precisions` does not name."""
    precisions: Mapping[str, Precision]
    """Table -> precision."""

    def of(self, table: str) -> Precision:
        """Return a table's precision."""
        return self.precisions.get(table, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A job, and the time and money that it may take."""

    work: Workload
    asked: Asked
    wanted: Wanted
    frozen: Frozen | None
    """Precisions of frozen tables; None where tables are trained."""
    max_hours: float | None = None
    """Hours that the job may take; None for any."""
    max_cost: float | None = None
    """Price that the job may have, in the cluster's currency; None for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A job's estimate on one cluster, and whether it fits."""

    cluster: ClusterSpec
    estimate: Estimate
    problems: tuple[str, ...]
    """Why it does not fit; empty where it does."""

    @property
    def fits(self) -> bool:
        """Return whether the job fits in memory, time and money."""
        return not self.problems


def answer(question: Question, cluster: ClusterSpec) -> Answer:
    """Plan a job on a cluster, and estimate it.

    The plan is the best one that TorchRec's planner finds, or the rule's where it finds none.

    Args:
        question: the job.
        cluster: the machines.

    Raises:
        BadRequest: a table cannot have the sharding type that the user asks for.
    """
    asked, work = question.asked, question.work
    refused: list[str] = []
    reserved_bytes = reserved(work, asked, cluster, is_trained=question.frozen is None)
    try:
        plan = search(_wanted(question, cluster), cluster, reserved_bytes=reserved_bytes)
        result = estimate(work, asked, cluster, plan.document, plan.planner_ms)
    except DoesNotFit as error:
        refused.append(str(error))
        result = _by_rule(question, cluster)
    problems = result.problems(max_hours=question.max_hours, max_cost=question.max_cost)
    return Answer(cluster=cluster, estimate=result, problems=(*problems, *refused))


def _wanted(question: Question, cluster: ClusterSpec) -> Wanted:
    """Return the tables that the planner places.

    Frozen tables are read while rows pass through the base, in steps of that many rows.
    """
    wanted, frozen = question.wanted, question.frozen
    if frozen is None:
        return wanted
    return replace(
        wanted,
        batch_rows=cluster.world * LOOKED_UP_ROWS,
        precisions={shape.name: frozen.of(shape.name) for shape in wanted.shapes},
    )


def by_rule(question: Question, cluster: ClusterSpec) -> PlanDocument:
    """Return the rule's plan, which a job makes where it gets none."""
    wanted, frozen = question.wanted, question.frozen
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
    question: Question,
    cluster: ClusterSpec,
    others: Sequence[ClusterSpec],
    more: Callable[[ClusterSpec, int], ClusterSpec],
) -> str:
    """Return the first change with which a job fits: lower precision, then the cheapest cluster.

    Args:
        question: the job, which does not fit on `cluster`.
        cluster: the machines.
        others: clusters of other kinds.
        more: returns a cluster of the same kind with a number of machines.
    """
    for lower in in_lower_precisions(question):
        if answer(lower, cluster).fits:
            assert lower.frozen is not None
            return f"tables.precision={lower.frozen.precision} would fit"
    grown = [more(kind, nodes) for kind in (cluster, *others) for nodes in _powers()]
    # By the rule's price, which is quick; the search runs for clusters until one of them fits.
    for kind in sorted(grown, key=lambda kind: price_by_the_rule(question, kind)):
        if price_by_the_rule(question, kind)[0] == float("inf"):
            break
        other = answer(question, kind)
        if other.fits:
            return (
                f"cluster={kind.name} would fit: {other.estimate.hours:.2f} hours, "
                f"{other.estimate.money:,.2f} {kind.currency}"
            )
    return (
        f"no shipped cluster of up to {_MAX_MACHINES} machines is enough; "
        "make tables smaller, or rows fewer"
    )


def _powers() -> Iterator[int]:
    """Yield the numbers of machines that are tried: powers of two."""
    nodes = 1
    while nodes <= _MAX_MACHINES:
        yield nodes
        nodes *= 2


def price_by_the_rule(question: Question, cluster: ClusterSpec) -> tuple[float, int]:
    """Return the job's price by the rule's plan, and its workers, which decide between ties.

    The price is infinite where the job does not fit, or the rule has no plan.
    """
    try:
        result = _by_rule(question, cluster)
    except BadRequest:
        return float("inf"), cluster.world
    problems = result.problems(max_hours=question.max_hours, max_cost=question.max_cost)
    return (float("inf") if problems else result.money), cluster.world


def _by_rule(question: Question, cluster: ClusterSpec) -> Estimate:
    """Estimate a job by the rule's plan, without a search."""
    plan = by_rule(question, cluster)
    return estimate(question.work, question.asked, cluster, plan, 0.0)


def in_lower_precisions(question: Question) -> Iterator[Question]:
    """Yield the same job with ever lower precisions. Tables that `precisions` names keep theirs."""
    frozen = question.frozen
    while frozen is not None and (precision := _SMALLER.get(frozen.precision)):
        frozen = replace(frozen, precision=precision)
        try:
            for shape in question.work.shapes:
                check_width(shape.name, frozen.of(shape.name), shape.width)
        except BadRequest:
            return
        yield replace(question, frozen=frozen)
