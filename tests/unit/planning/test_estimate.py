"""Memory is counted to the byte, and time has the right proportions."""

import pytest
import torch

from iak.jobs.clusters import load_cluster, with_devices
from iak.pipeline.planning.assess import assess
from iak.pipeline.planning.estimate import Estimate, Step, phase_lines
from iak.pipeline.sharding.row_format import stride_bytes
from iak.pipeline.tuning.schedule import blocks_of, steps_per_epoch
from iak.schemas.plan import PlanDocument
from tests.unit.planning.plan_requests import STAGES, a_request


@pytest.mark.parametrize("precision", [None, "int8", "int4"])
@pytest.mark.parametrize("cluster", ["8xH100", "2x8xL40S"])
def test_every_element_is_held_once_and_every_byte_counted(precision, cluster):
    request = a_request(precision=precision)
    found = assess(request, load_cluster(cluster))
    assert found.fits
    held = {"tables": 0, "table optimiser": 0}
    for memory in found.estimate.memory:
        for kind in held:
            held[kind] += memory[kind]
    shapes = request.work.shapes
    assert {t.table for t in found.estimate.document.tables} == {s.name for s in shapes}
    for table, shape in zip(found.estimate.document.tables, shapes, strict=True):
        assert sum(s.rows * s.cols for s in table.shards) == shape.rows * shape.width
    cuda, document = torch.device("cuda"), found.estimate.document
    if precision:  # a frozen row begins at a multiple of 16 bytes on CUDA
        assert held["tables"] == sum(
            s.rows * stride_bytes(precision, s.width, cuda) for s in shapes
        )
        assert held["table optimiser"] == 0
        assert {t.precision for t in document.tables} == {precision}
        assert {t.type for t in document.tables} <= {"row_wise", "table_wise"}
        assert found.estimate.planner_ms > 0
        return
    assert held["tables"] == sum(4 * s.rows * s.width for s in shapes)
    cuts = {t.table: len(t.shards) if t.type == "column_wise" else 1 for t in document.tables}
    assert held["table optimiser"] == sum(4 * s.rows * cuts[s.name] for s in shapes)
    assert found.estimate.planner_ms > 0


def test_more_bandwidth_is_never_slower_and_names_the_bottleneck():
    h100 = load_cluster("8xH100")
    slow = h100.model_copy(update={"intra_gb_per_s": 0.5})
    times = {}
    for cluster in (slow, h100):
        told = assess(a_request(), cluster).estimate
        times[cluster.intra_gb_per_s] = told
    assert times[0.5].hours > times[450.0].hours
    assert times[0.5].phases["steps"][0].bottleneck == "links"


def test_one_rank_sends_nothing():
    alone = with_devices(load_cluster("8xH100"), 1)
    for precision in (None, "int8"):
        told = assess(a_request(precision=precision), alone).estimate
        for step, _, _ in told.phases.values():
            assert sum(step.sent.values()) == 0
            assert step.seconds["links"] == 0


def test_a_level_is_paced_as_the_schedule_paces_it():
    settings = a_request(precision="int8").settings
    for level in STAGES:
        stage, own = level.stage, settings.rows // level.kernels
        (steps,) = steps_per_epoch(
            torch.tensor([own]), wanted_steps=stage.steps_per_epoch,
            min_batch=stage.min_batch, max_batch=stage.max_batch,
        ).tolist()  # fmt: skip
        told = assess(a_request(precision="int8"), load_cluster("8xH100")).estimate
        step, rows, in_all = told.phases[f"kernels: {level.name}"]
        present = round(rows / (own / steps))
        blocks = blocks_of(
            torch.full((level.kernels,), steps),
            torch.full((1, level.kernels), own),
            settings.batch_rows,
        )
        assert present == len(blocks[0])
        epochs = stage.compression_epochs + stage.max_epochs
        used = min(steps, stage.max_steps_per_epoch) * own / steps
        assert in_all == pytest.approx(level.kernels * used * epochs)
        assert step.sent["gradients of kernels"] > 0


GIB = 2**30


def estimated(*, memory=({"tables": GIB},), host_bytes=0, steps=None, cluster=None):
    """An estimate of given numbers."""
    step = Step(seconds={"links": 0.2, "products": 0.3, "input": 0.1}, sent={})
    return Estimate(
        cluster=cluster or load_cluster("8xH100"),
        document=PlanDocument.model_construct(job="pretrain", world=8, tables=()),
        planner_ms=0.0,
        memory=tuple(memory),
        host_bytes=host_bytes,
        phases=steps or {"steps": (step, 100, 720_000.0)},
    )


@pytest.mark.parametrize(
    ("seconds", "total", "bottleneck"),
    [
        ({"links": 0.2, "products": 0.3, "input": 0.1}, 0.5, "products"),
        ({"links": 0.2, "products": 0.3, "input": 0.9}, 0.9, "input"),
        ({"links": 0.2}, 0.2, "links"),
    ],
)
def test_input_runs_beside_all_other_work(seconds, total, bottleneck):
    step = Step(seconds=seconds, sent={})
    assert step.total_s == pytest.approx(total)
    assert step.bottleneck == bottleneck


def test_hours_money_and_rate_follow_from_the_phases():
    told = estimated()
    assert told.hours == pytest.approx(7_200 * 0.5 / 3_600)
    assert told.cost == pytest.approx(told.hours * told.cluster.price_per_hour)
    assert told.rows_per_s == pytest.approx(200.0)


def test_a_job_that_fits_has_no_problem():
    assert estimated().problems(max_hours=1.5, max_cost=10_000) == []


@pytest.mark.parametrize(
    ("changes", "limits", "says"),
    [
        (
            {"memory": [{"tables": GIB}, {"tables": 80 * GIB, "dense": GIB}]},
            {},
            "rank 1 needs 81.0 GiB, most of it tables",
        ),
        ({"host_bytes": 10**6 * GIB}, {}, "a machine needs 1000000.0 GiB of host memory"),
        ({}, {"max_hours": 0.5}, "it takes about 1.00 hours; max_hours is 0.5"),
        ({}, {"max_cost": 0.01}, "max_cost is 0.01"),
    ],
)
def test_each_limit_that_is_broken_is_told_with_its_numbers(changes, limits, says):
    (problem,) = estimated(**changes).problems(**limits)
    assert says in problem


def test_all_broken_limits_are_told_at_once():
    told = estimated(memory=[{"tables": 999 * GIB}], host_bytes=10**6 * GIB)
    assert len(told.problems(max_hours=0.1, max_cost=0.01)) == 4


def test_phases_are_lines_for_people_and_records():
    step = Step(seconds={"links": 0.25}, sent={"ids": 2.0**20})
    (line,) = phase_lines(estimated(steps={"steps": (step, 100, 7_200.0)}))
    assert line.step_ms == 250.0
    assert line.rows_per_s == 400
    assert line.sent_mib_per_rank == {"ids": 1.0}
    assert (line.bottleneck, line.hours) == ("links", 0.005)
