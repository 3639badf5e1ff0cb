"""Define what tuning is given: settings of a level, and its rows, towers, tasks and worker.

Shapes: K slots of a bank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.process import Worker
from iak.pipeline.tuning.schedule import steps_per_epoch
from iak.schemas.job import StageSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Settings of one level: its own, and those that all levels of a run share."""

    spec: StageSpec
    """Learning rate, epochs, patience and batch bounds of this level."""
    step_rows: int
    """Rows over all workers at which a step is full."""
    beta: float
    """Weight of the rate, in loss units per nat. With `target_rate`, the one to begin with."""
    seed: int
    borrows: bool = False
    """Whether kernels borrow from their parents (borrow.py)."""
    starts_live: bool = False
    """Whether any kernel of the level serves already. Such kernels had their compression in an
    earlier night, and have seen most rows of the window."""

    @property
    def compression_epochs(self) -> int:
        """Return the epochs of compression, none for kernels that serve already."""
        return 0 if self.starts_live else self.spec.compression_epochs

    @property
    def max_epochs(self) -> int:
        """Return the epochs of matching at most."""
        return self.spec.live_epochs if self.starts_live else self.spec.max_epochs

    def steps_of(self, rows_K: Tensor) -> Tensor:
        """Return the steps of every slot's epoch, 0 for a slot without rows.

        Args:
            rows_K: tuning rows of every slot, over all workers.
        """
        return steps_per_epoch(
            rows_K,
            wanted_steps=self.spec.steps_per_epoch,
            min_batch=self.spec.min_batch,
            max_batch=self.spec.max_batch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningContext:
    """Rows, towers, tasks and worker of tuning. Only the rows change during a run."""

    heads: Heads | Tail
    """The frozen towers, which kernels adapt."""
    tasks: Sequence[TaskShape]
    train: TuningRows
    valid: TuningRows
    worker: Worker
