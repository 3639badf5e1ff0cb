"""The state of a training comes back from a checkpoint, and moves to other workers."""

import json
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from iak.pipeline.base.train_state import TrainState, restored_state
from iak.pipeline.data.reader import Cursor
from iak.schemas.training import TaskQuality

COUNTS, LOSSES = st.integers(0, 2**40), st.floats(0, allow_nan=False)
QUALITIES = st.builds(
    TaskQuality, task=st.text(max_size=5), rows=COUNTS, positives=COUNTS,
    log_loss=st.none() | st.floats(0, 9),
)  # fmt: skip
STATES = st.builds(
    TrainState, step=COUNTS, steps_per_epoch=st.integers(1, 2**20), best_loss=LOSSES,
    child_loss=LOSSES, parent_loss=st.none() | LOSSES, labelled=st.lists(COUNTS, max_size=3),
    best_tasks=st.lists(QUALITIES, max_size=2).map(tuple), is_over=st.booleans(),
    cursor=st.builds(Cursor, epoch=COUNTS, file=st.text(max_size=5), row=COUNTS),
)  # fmt: skip


@given(STATES)
def test_a_state_comes_back_from_its_json(state):
    document = json.loads(json.dumps(state.as_json()))
    assert TypeAdapter(TrainState).validate_python(document) == state


def of_rank(rank, world):
    return SimpleNamespace(rank=rank, world=world)


@given(st.lists(STATES, min_size=1, max_size=3))
def test_as_many_workers_each_take_their_own_state(written):
    for rank, state in enumerate(written):
        worker = of_rank(rank, len(written))
        assert restored_state(written, state.steps_per_epoch, worker) == (state, [])


@given(state=STATES, per_epoch=st.integers(1, 100), rank=st.integers(0, 2))
def test_other_workers_begin_the_unfinished_epoch_again(state, per_epoch, rank):
    moved, (line,) = restored_state([state, state], per_epoch, of_rank(rank, 3))
    epoch, begun = divmod(state.step, state.steps_per_epoch)
    assert (moved.step, moved.steps_per_epoch) == (epoch * per_epoch, per_epoch)
    assert moved.cursor == Cursor(epoch=epoch, selection=state.cursor.selection)
    assert (moved.best_loss, moved.best_tasks) == (state.best_loss, state.best_tasks)
    assert line.startswith("2 workers wrote the checkpoint, 3 go on")
    assert (f"{begun} steps' rows are trained on twice" in line) == bool(begun)
