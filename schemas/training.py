"""Define the result of a pre-training run, as worker 0 returns it and as the record has it."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt

from iak.schemas.base import JsonObject, ResultSpec, Spec, View
from iak.schemas.manifest import PrecisionEntry
from iak.schemas.table_placement import TablePlacement


class TaskQuality(Spec):
    """One task on validation rows. A conversion has two: on clicked rows, and on all rows."""

    task: str
    """Name of the task."""
    rows: NonNegativeInt
    """Labelled validation rows."""
    positives: NonNegativeInt
    """Rows of them with a positive label."""
    log_loss: float | None = None
    """Nats per row."""
    auc: float | None = None
    """None where labels are of one class."""
    calibration: float | None = None
    """Positives predicted over positives observed."""
    reason: str = ""
    """Why a number is missing."""


class CountedRows(Spec):
    """What was counted in the pre-training rows while the encoding was fitted."""

    labels: dict[str, NonNegativeInt]
    """`known TASK` and `positive TASK`: rows with a label, and with one that is 1."""
    contract: dict[str, NonNegativeInt]
    """Rows by finding of the contract."""


class TowerResult(Spec):
    """One task's tower after it was trained further by itself."""

    task: str
    """Name of the task."""
    step: NonNegativeInt
    """Step of its own training at which it was best; 0 for the tower of the base's best step."""
    loss_before: float
    """Its validation loss at the base's best step, in nats per row."""
    loss: float
    """Its best validation loss."""


class TunedTowers(Spec):
    """What training each tower further changes in the result of a run."""

    towers: tuple[TowerResult, ...]
    """Every task's tower."""
    best_valid_loss: float
    """Validation loss of the base with the best tower of each task."""
    best_tasks: tuple[TaskQuality, ...]
    """Each task on validation rows, with these towers."""


class TrialResult(Spec):
    """One of the sets of settings that a run tried, as it ended."""

    name: str
    settings: dict[str, float]
    """The settings in which it differs from those of the run."""
    steps: NonNegativeInt | None
    """Steps that were taken; None where it diverged."""
    best_step: int | None
    """Step of its best validation; None where it diverged."""
    best_valid_loss: float | None
    """Validation loss at that step; None where it diverged."""


class TrainingResult(ResultSpec):
    """What the workers of a pre-training run measured, over all workers."""

    steps: NonNegativeInt
    """Steps that were taken."""
    steps_planned: NonNegativeInt
    """Steps of all epochs."""
    rows: NonNegativeInt
    """Rows trained on, in all epochs."""
    labelled: dict[str, NonNegativeInt]
    """Task -> rows trained on that have its label."""
    best_step: int
    """Step of the best validation; 0 for the base that is continued."""
    best_valid_loss: float
    """Weighted sum over tasks of the mean nats per labelled validation row, at that step."""
    best_tasks: tuple[TaskQuality, ...]
    """Each task on validation rows, at that step."""
    parent_valid_loss: float | None
    """Validation loss of the base that is continued; None without one."""
    is_parent_best: bool
    """Whether no step improved on the base that is continued."""
    best_child_loss: float | None
    """Best validation loss after at least one step; None where no step was validated."""
    stopped_early: bool
    """Whether patience ended the run."""
    improving_at_the_end: bool
    """Whether the last validation was the best."""
    loaded: tuple[str, ...]
    """A line for each part that was not loaded unchanged, from a base or a checkpoint."""
    plan: tuple[TablePlacement, ...]
    """Where each table was placed."""
    towers: tuple[TowerResult, ...] = ()
    """Every task's tower; empty unless `early_stop` is `per_task`."""
    precisions: tuple[PrecisionEntry, ...] = ()
    """What lower precision costs the best weights; empty where the parent is best."""
    trials: Annotated[tuple[TrialResult, ...], Field(exclude_if=lambda trials: not trials)] = ()
    """What was tried; empty where the run trained once. All other numbers are those of the best."""
    trial: Annotated[str, Field(exclude_if=lambda name: not name)] = ""
    """Name of the best trial; empty where the run trained once."""


class PublishedBaseResult(View):
    """What a pre-training published, as its record has it under `result`."""

    not_published: str | None = None
    """Why no base was published; None where one was."""


class UsedSettings(Spec):
    """The settings of a training that may be left open."""

    used: dict[str, int | float]
    """Name of a setting -> the value that was used."""
    followed: tuple[str, ...]
    """Those that were left open, whose values follow from the rows."""

    def with_trial(self, result: TrainingResult) -> Self:
        """Return these settings with those of the best trial, which were left open too."""
        chosen = next((t.settings for t in result.trials if t.name == result.trial), {})
        followed = (*self.followed, *(name for name in chosen if name not in self.followed))
        return self.model_copy(update={"used": self.used | chosen, "followed": followed})

    def describe(self) -> str:
        """Return the settings that were left open, with the values that were used, as text."""
        values = {name: self.used[name] for name in self.followed}
        return "  ".join(f"{name}={value:g}" for name, value in values.items()) or "none"


class TrainingRunResult(TrainingResult):
    """All that the record of a pre-training has."""

    contract: dict[str, NonNegativeInt]
    """Quarantined rows by reason."""
    settings: UsedSettings
    advice: tuple[str, ...]
    """A sentence for each setting that is most likely wrong."""
    labels: dict[str, NonNegativeInt]
    """`known TASK` and `positive TASK` -> rows of an epoch."""
    labelled_rows: str
    """The same as text."""
    unseen: dict[str, dict[str, float]]
    """By split, each table's share of ids that training never saw."""
    not_published: str | None = None
    """Why no base was published; None where one was."""
    fingerprint: str | None = None
    """Fingerprint of the published base; None where there is none."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, under the keys of a run record."""
        absent = {n for n in ("not_published", "fingerprint") if getattr(self, n) is None}
        return self.model_dump(mode="json", exclude=absent)
