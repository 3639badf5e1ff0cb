"""Memory is counted to the byte, and time has the right proportions."""

import pytest
import torch

from iak.jobs.clusters import load_cluster, with_devices
from iak.pipeline.planning.answer import answer
from iak.pipeline.sharding.quantised import stride_bytes
from iak.pipeline.tuning.schedule import blocks_of, steps_per_epoch
from tests.unit.planning.questions import STAGES, question


@pytest.mark.parametrize("precision", [None, "int8", "int4"])
@pytest.mark.parametrize("cluster", ["8xH100", "2x8xL40S"])
def test_every_element_is_held_once_and_every_byte_counted(precision, cluster):
    asked = question(precision=precision)
    found = answer(asked, load_cluster(cluster))
    assert found.fits
    held = {"tables": 0, "table optimiser": 0}
    for memory in found.estimate.memory:
        for kind in held:
            held[kind] += memory[kind]
    shapes = asked.work.shapes
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


def test_more_bandwidth_is_never_slower_and_names_what_binds():
    h100 = load_cluster("8xH100")
    slow = h100.model_copy(update={"intra_gb_per_s": 0.5})
    times = {}
    for cluster in (slow, h100):
        told = answer(question(), cluster).estimate
        times[cluster.intra_gb_per_s] = told
    assert times[0.5].hours > times[450.0].hours
    assert times[0.5].phases["steps"][0].binds == "links"


def test_one_rank_sends_nothing():
    alone = with_devices(load_cluster("8xH100"), 1)
    for precision in (None, "int8"):
        told = answer(question(precision=precision), alone).estimate
        for step, _, _ in told.phases.values():
            assert sum(step.sent.values()) == 0
            assert step.seconds["links"] == 0


def test_a_level_is_paced_as_the_schedule_paces_it():
    asked = question(precision="int8").asked
    for level in STAGES:
        stage, own = level.stage, asked.rows // level.kernels
        (steps,) = steps_per_epoch(
            torch.tensor([own]), wanted_steps=stage.steps_per_epoch,
            min_batch=stage.min_batch, max_batch=stage.max_batch,
        ).tolist()  # fmt: skip
        told = answer(question(precision="int8"), load_cluster("8xH100")).estimate
        step, rows, in_all = told.phases[f"kernels: {level.name}"]
        present = round(rows / (own / steps))
        blocks = blocks_of(
            torch.full((level.kernels,), steps),
            torch.full((1, level.kernels), own),
            asked.batch_rows,
        )
        assert present == len(blocks[0])
        epochs = stage.compression_epochs + stage.max_epochs
        used = min(steps, stage.max_steps_per_epoch) * own / steps
        assert in_all == pytest.approx(level.kernels * used * epochs)
        assert step.sent["gradients of kernels"] > 0
