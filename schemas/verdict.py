"""What the gate decided of one kernel, and on which numbers."""

from typing import Literal

from pydantic import NonNegativeInt

from iak.schemas.base import Spec


class Comparison(Spec):
    """One measure of a kernel beside the base's on the same rows; null where it has no value."""

    kernel: float | None = None
    base: float | None = None
    delta: float | None = None
    """AUC: kernel minus base. Log-loss: kernel over base, minus 1. Calibration: how much further
    from 1 the kernel's is than the base's."""
    low: float | None = None
    """Lower end of the difference's 95 % interval."""
    high: float | None = None
    harm: bool = False
    """Whether the whole interval lies beyond the margin, on the worse side."""


class TaskVerdict(Spec):
    """What the gate rows say of one task."""

    task: str
    """As metrics name it: `cvr` counts clicked rows, `ctcvr` all rows."""
    rows: NonNegativeInt
    """Labelled gate rows."""
    positives: NonNegativeInt
    negatives: NonNegativeInt
    cluster: Literal["user", "row"] = "row"
    """What intervals take as independent."""
    clusters: NonNegativeInt = 0
    se_ratio: float | None = None
    """Standard error of the AUC's difference clustered by user, over DeLong's."""
    auc: Comparison = Comparison()
    log_loss: Comparison = Comparison()
    """In nats a row."""
    calibration: Comparison = Comparison()
    """Positives predicted over positives observed."""
    judged: bool
    """Whether the rows meet the floors; where they do not, the task neither vouches nor holds."""
    holds: bool
    """Whether harm is shown in any measure: the kernel is not published."""
    reason: str
    """What harm, or why nothing is judged; empty where no harm is shown."""


class Verdict(Spec):
    """Whether one kernel is published, and the reason a reader will want tomorrow."""

    publish: bool
    reason: str
    gain: float | None = None
    """Mean fall of the loss that tuning lowers, in nats a gate row, over the judged tasks; null
    where nothing is judged."""
    gain_low: float | None = None
    """The gain less the standard errors that it must exceed."""
    rows: NonNegativeInt
    """Gate rows with a label."""
    tasks: tuple[TaskVerdict, ...] = ()

    @property
    def holding(self) -> tuple[str, ...]:
        """Names of the tasks that hold the kernel."""
        return tuple(t.task for t in self.tasks if t.holds)
