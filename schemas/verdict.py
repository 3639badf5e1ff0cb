"""Define the gate's verdict on one kernel, with the numbers that it is based on."""

from typing import Literal

from pydantic import NonNegativeInt

from iak.schemas.base import Spec


class Comparison(Spec):
    """One metric of a kernel and of the base on the same rows; null where it has no value."""

    kernel: float | None = None
    base: float | None = None
    delta: float | None = None
    """AUC: kernel minus base. Log-loss: kernel over base, minus 1. Calibration: distance of the
    kernel's from 1, minus the distance of the base's."""
    low: float | None = None
    """Lower end of the difference's 95 % interval."""
    high: float | None = None
    harm: bool = False
    """Whether the whole interval is worse than the margin."""


class TaskVerdict(Spec):
    """Metrics of one task on the gate rows, and whether they show harm."""

    task: str
    """Name of the task in metrics: `cvr` counts clicked rows, `ctcvr` all rows."""
    rows: NonNegativeInt
    """Labelled gate rows."""
    positives: NonNegativeInt
    negatives: NonNegativeInt
    cluster: Literal["user", "row"] = "row"
    """Unit that intervals take as independent."""
    clusters: NonNegativeInt = 0
    se_ratio: float | None = None
    """Standard error of the AUC's difference clustered by user, over DeLong's."""
    auc: Comparison = Comparison()
    log_loss: Comparison = Comparison()
    """Log-losses in nats per row."""
    calibration: Comparison = Comparison()
    """Positives predicted over positives observed."""
    judged: bool
    """Whether the rows reach the floors; otherwise the task has no influence on the verdict."""
    holds: bool
    """Whether any metric shows harm, so that the kernel is not published."""
    reason: str
    """The harm, or why nothing is judged; empty where no harm is shown."""


class Verdict(Spec):
    """Whether one kernel is published, and why."""

    publish: bool
    reason: str
    gain: float | None = None
    """Mean decrease of the loss that tuning lowers, in nats per gate row, over the judged tasks;
    null where nothing is judged."""
    gain_low: float | None = None
    """The gain minus the standard errors that it must exceed."""
    rows: NonNegativeInt
    """Gate rows with a label."""
    tasks: tuple[TaskVerdict, ...] = ()

    @property
    def holding(self) -> tuple[str, ...]:
        """Return the names of the tasks that hold the kernel back."""
        return tuple(t.task for t in self.tasks if t.holds)
