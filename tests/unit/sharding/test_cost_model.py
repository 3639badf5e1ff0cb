"""TorchRec's planner is asked about one table at a time, and answers in the right proportions."""

import pytest

from iak.pipeline.model.tables import TableShape
from iak.pipeline.sharding.cost_model import Bandwidths, expected

ROWS, WIDTH, WORLD = 4_000, 64, 4
SHAPE = TableShape(name="t", rows=ROWS, width=WIDTH, features=("f",))


def ask(kind="row_wise", precision="fp32", shape=SHAPE, **changes):
    settings = {
        "is_trained": False,
        "world": WORLD,
        "device_type": "cuda",
        "local_rows": 256,
        "ids_per_row": 2,
    }
    return expected(shape, kind, precision, **(settings | changes))


@pytest.mark.parametrize("kind", ["row_wise", "column_wise"])
@pytest.mark.parametrize(("precision", "value_bytes"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_a_table_that_is_cut_takes_its_part_of_each_worker(kind, precision, value_bytes):
    answer = ask(kind, precision)
    assert answer.held_bytes == ROWS * WIDTH * value_bytes // WORLD


def test_a_whole_table_lies_on_one_worker():
    assert ask("table_wise").held_bytes == ROWS * WIDTH * 4


def test_half_a_byte_is_more_than_the_planner_can_count():
    assert ask(precision="int4") is None


def test_training_takes_more_time_and_memory_than_looking_up():
    frozen, trained = ask(), ask(is_trained=True)
    assert trained.step_ms > frozen.step_ms
    assert trained.held_bytes > frozen.held_bytes + ROWS * 4 // WORLD, "an accumulator for each row"


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise"])
def test_a_machine_of_twice_the_bandwidths_takes_half_the_time(kind):
    slow = ask(kind, measured=Bandwidths(memory=1e9, link=1e8))
    fast = ask(kind, measured=Bandwidths(memory=2e9, link=2e8))
    assert slow.step_ms == pytest.approx(2 * fast.step_ms)
    assert slow.held_bytes == fast.held_bytes


def test_each_bandwidth_counts():
    balanced = ask(measured=Bandwidths(memory=1e9, link=1e8)).step_ms
    assert ask(measured=Bandwidths(memory=1e9, link=1e7)).step_ms > balanced
    assert ask(measured=Bandwidths(memory=1e8, link=1e8)).step_ms > balanced


def test_more_ids_a_row_take_more_time():
    machine = Bandwidths(memory=1e9, link=1e8)
    assert ask(ids_per_row=20, measured=machine).step_ms > ask(measured=machine).step_ms


def test_every_feature_of_a_table_reads_it():
    machine = Bandwidths(memory=1e9, link=1e8)
    pair = TableShape(name="t", rows=ROWS, width=WIDTH, features=("f", "g"))
    one, two = (ask(shape=shape, measured=machine) for shape in (SHAPE, pair))
    assert two.step_ms > 1.5 * one.step_ms
    assert two.held_bytes == one.held_bytes
