"""Define the work of a pre-training run's workers, and the folders in which they leave results."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from iak.pipeline.base.trials import Trial
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.view import LogView
from iak.pipeline.events import Report
from iak.pipeline.process import Worker
from iak.schemas.job import BaseOptimSpec, ModelSpec
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.training import TrainingResult

BEST, CHECKPOINTS = ".best", "checkpoints"
"""Folders of a training while it runs."""
TRIALS = "trials"
"""Folder of a run that has a folder for each trial, with these two in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainWork:
    """The work of a pre-training run, the same for every worker."""

    view: LogView
    """The log as it was when the run began, cut into splits."""
    encoding: Encoding
    rates: tuple[float, ...] | None
    """Share of positive labels of each task, at which a fresh base's towers start; None for one
    that continues a base."""
    model: ModelSpec
    optim: BaseOptimSpec
    run_dir: Path
    from_base: Path | None
    """Folder of the base that is continued; None for a fresh base."""
    allow: tuple[str, ...] = ()
    """Allowed differences from that base (audit.py)."""
    seed: int
    batch_rows: int
    """Rows of a step, of all workers."""
    epochs: int
    patience: int
    """Validations in a row without a better loss after which training stops."""
    validations_per_epoch: int
    shuffle_rows: int
    """Rows that a worker shuffles together."""
    bf16: bool
    """Whether trunk and towers run under bfloat16 autocast."""
    placement: ResolvedPlacement
    checkpoint_every_steps: int
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Task -> weight of its loss, where it differs from the catalogue's."""
    early_stop: Literal["sum", "per_task"] = "sum"
    """`per_task` trains each task's tower to its own best validation afterwards."""
    trials: tuple[Trial, ...] = ()
    """Sets of settings to train with, one after the other; empty where the run trains once."""
    trial: str = ""
    """Name of the trial whose work this is; empty where the run trains once."""

    @property
    def scratch(self) -> Path:
        """Return the folder of the checkpoints and of the best weights, in the run's folder."""
        return self.run_dir / TRIALS / self.trial if self.trial else self.run_dir

    def of_trial(self, trial: Trial) -> Self:
        """Return the work of one of the trials."""
        return replace(self, trials=(), trial=trial.name, model=trial.model, optim=trial.optim)

    def of_trial_named(self, name: str) -> Self:
        """Return the work of the trial of this name; this work where the run trains once."""
        return next((self.of_trial(trial) for trial in self.trials if trial.name == name), self)


def pretrain_on_worker(worker: Worker, work: PretrainWork, report: Report) -> TrainingResult:
    """Train with one worker's rows."""
    # TorchRec takes seconds to import. The command that launches workers needs none of it.
    from iak.pipeline.base.pretrain import pretrain

    return pretrain(work, worker=worker, report=report)
