"""Does it fit, and if it does not, what is the smallest change that would make it."""

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
_MOST_MACHINES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """How a frozen base's tables are held."""

    precision: Precision
    precisions: Mapping[str, Precision]
    """Tables that are named one by one."""

    def of(self, table: str) -> Precision:
        """A table's."""
        return self.precisions.get(table, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A job, and what it may take."""

    work: Workload
    asked: Asked
    wanted: Wanted
    frozen: Frozen | None
    """None where tables are trained."""
    row_wise_from_rows: int
    """Of the rule, which places tables where no search is made."""
    max_hours: float | None = None
    max_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was found for one cluster."""

    cluster: ClusterSpec
    estimate: Estimate
    problems: tuple[str, ...]
    """Why it does not fit; empty where it does."""

    @property
    def fits(self) -> bool:
        """Whether it fits, in memory, time and money."""
        return not self.problems


def answer(question: Question, cluster: ClusterSpec) -> Answer:
    """The plan for a cluster, and our account of it.

    It is the best one that TorchRec's planner finds, or the rule's where that finds none.

    Raises:
        BadRequest: a sharding type is asked for that a table cannot have.
    """
    asked, work = question.asked, question.work
    refused: list[str] = []
    reserved_bytes = reserved(work, asked, cluster, is_trained=question.frozen is None)
    try:
        found = search(_wanted(question, cluster), cluster, reserved_bytes=reserved_bytes)
        told = estimate(work, asked, cluster, found.document, found.planner_ms)
    except DoesNotFit as error:
        refused.append(str(error))
        told = _by_rule(question, cluster)
    problems = told.problems(max_hours=question.max_hours, max_cost=question.max_cost)
    return Answer(cluster=cluster, estimate=told, problems=(*problems, *refused))


def _wanted(question: Question, cluster: ClusterSpec) -> Wanted:
    """What the planner is asked: of frozen tables, about the steps in which they are read."""
    wanted, frozen = question.wanted, question.frozen
    if frozen is None:
        return wanted
    return replace(
        wanted,
        batch_rows=cluster.world * LOOKED_UP_ROWS,
        precisions={shape.name: frozen.of(shape.name) for shape in wanted.shapes},
    )


def by_rule(question: Question, cluster: ClusterSpec) -> PlanDocument:
    """Big tables by rows, small ones whole: the plan that jobs make when they are given none."""
    wanted, frozen = question.wanted, question.frozen
    plan = plan_tables(
        wanted.shapes,
        world=cluster.world,
        device=torch.device(cluster.device),
        overrides=wanted.sharding,
        row_wise_from_rows=question.row_wise_from_rows,
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
    """The first change that makes it fit: lower precision, then the cluster that costs least.

    Args:
        question: what did not fit on `cluster`.
        cluster: where it did not.
        others: clusters of other kinds.
        more: the same kind with so many machines.
    """
    for lower in _lower(question):
        if answer(lower, cluster).fits:
            assert lower.frozen is not None
            return f"tables.precision={lower.frozen.precision} would fit"
    grown = [more(kind, nodes) for kind in (cluster, *others) for nodes in _powers()]
    for kind in sorted(grown, key=lambda kind: _price(question, kind)):
        if _price(question, kind)[0] == float("inf"):
            break
        found = answer(question, kind)
        if found.fits:
            return (
                f"cluster={kind.name} would fit: {found.estimate.hours:.2f} hours, "
                f"{found.estimate.money:,.2f} {kind.currency}"
            )
    return (
        f"no shipped cluster of up to {_MOST_MACHINES} machines would do; "
        "make tables smaller, or rows fewer"
    )


def _powers() -> Iterator[int]:
    nodes = 1
    while nodes <= _MOST_MACHINES:
        yield nodes
        nodes *= 2


def _price(question: Question, cluster: ClusterSpec) -> tuple[float, int]:
    """What the job costs by the rule's plan, which takes no search; infinite where it is none."""
    try:
        told = _by_rule(question, cluster)
    except BadRequest:
        return float("inf"), cluster.world
    problems = told.problems(max_hours=question.max_hours, max_cost=question.max_cost)
    return (float("inf") if problems else told.money), cluster.world


def _by_rule(question: Question, cluster: ClusterSpec) -> Estimate:
    plan = by_rule(question, cluster)
    return estimate(question.work, question.asked, cluster, plan, 0.0)


def _lower(question: Question) -> Iterator[Question]:
    """The same with tables held in less; those that are named one by one stay as they are."""
    frozen = question.frozen
    while frozen is not None and (precision := _SMALLER.get(frozen.precision)):
        frozen = replace(frozen, precision=precision)
        try:
            for shape in question.work.shapes:
                check_width(shape.name, frozen.of(shape.name), shape.width)
        except BadRequest:
            return
        yield replace(question, frozen=frozen)
