"""Define how far a worker's training is, and move it to a run with other workers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from iak.pipeline.data.reader import Cursor
from iak.pipeline.process import Worker
from iak.schemas.base import JsonObject
from iak.schemas.training import TaskQuality


@dataclass(slots=True)
class TrainState:
    """Progress of a worker so far. A checkpoint contains it, by the names of these fields."""

    step: int = 0
    """Steps that are done."""
    steps_per_epoch: int = 0
    """Steps of an epoch, with as many workers as the run has."""
    cursor: Cursor = field(default_factory=Cursor)
    """Where this worker reads on."""
    best_loss: float = math.inf
    best_step: int = -1
    """Step of the best validation; 0 for the parent, before the first step; -1 for none yet."""
    waited: int = 0
    """Validations since the best one."""
    validations: int = 0
    rows: int = 0
    """Rows that all workers trained on."""
    labelled: list[int] = field(default_factory=list)
    """Rows trained on that have the label, by task."""
    child_loss: float = math.inf
    """Best validation loss after at least one step."""
    parent_loss: float | None = None
    """Validation loss of the base that is continued, before the first step; None without one."""
    best_tasks: tuple[TaskQuality, ...] = ()
    """Each task on validation rows, at the best step."""
    is_over: bool = False
    """Whether patience is spent."""
    loaded: list[str] = field(default_factory=list)
    """A line for each part that was not loaded unchanged, from a base or a checkpoint."""

    def as_json(self) -> JsonObject:
        """Return the state as JSON values. A loss before the first validation is infinite."""
        return asdict(self) | {"best_tasks": [task.model_dump() for task in self.best_tasks]}


def restored_state(
    written: Sequence[TrainState], steps_per_epoch: int, worker: Worker
) -> tuple[TrainState, list[str]]:
    """Return this worker's state from the states in a checkpoint.

    A cursor is a position in one worker's share of the log. With another number of workers the
    shares differ. Such a run keeps all that was learned, and starts the unfinished epoch again.

    Args:
        written: state of each worker that wrote the checkpoint, by rank; at least one.
        steps_per_epoch: steps of an epoch of this run.
        worker: this process.

    Returns:
        The state, and a line where the epoch starts again.
    """
    # A worker beyond those that wrote takes the first one's state. Only the cursors differ.
    before = written[worker.rank if worker.rank < len(written) else 0]
    if len(written) == worker.world:
        return replace(before, steps_per_epoch=steps_per_epoch), []
    epoch, begun = divmod(before.step, before.steps_per_epoch)
    state = replace(
        before,
        step=epoch * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        # The selection stays: reading compares it, and refuses a log that changed since.
        cursor=Cursor(epoch=epoch, selection=before.cursor.selection),
    )
    line = f"{len(written)} workers wrote the checkpoint, {worker.world} go on"
    if begun:
        line += (
            f"; epoch {epoch} starts again, and with it {begun} steps' rows are trained on twice"
        )
    return state, [line]
