"""Define the predictions of an evaluation: the tasks that metrics judge, and the files' columns."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from iak.schemas.base import Spec
from iak.schemas.task import TaskSpec

PREDICTIONS_FORMAT = 2
PREDICTIONS = "predictions"
"""Folder of the predictions in the run folder of an evaluation."""
DOCUMENT = b"iak"
"""Key of the document in a predictions file's metadata."""
BASE, IAK, PUBLISHED = "base", "iak", "iak_published"
"""The methods: the base, every tuned kernel, and the kernels that the gate published."""


class MetricTask(Spec):
    """One task as metrics judge it. A conversion is two: given its click, and over all rows."""

    name: str
    """Name in metrics: `ctr`, `cvr`, `ctcvr`, ..."""
    task: str
    """The catalogue's task whose label it has."""
    space: Literal["own", "all"]
    """`own`: the task's own probability (a conversion's given its click); `all`: over all rows."""
    given: str | None = None
    """Task whose label must be 1 for a row to count; every labelled row counts when absent."""
    kept: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of negatives that the sampled log kept; log-loss and calibration correct for it."""
    has_loss: bool = True
    """Whether tuning lowers the loss of this event; of a conversion it does so over all rows."""


class PredictionsDocument(Spec):
    """The `iak` entry in the metadata of a predictions file.

    A file `predictions/<split>-<worker>.parquet` has these columns:

    | column | type | meaning |
    |---|---|---|
    | `row` | int64 | key of the row: of its `row_id`, else of its position in its file |
    | `id` | string | the column `row_id` names, as text; absent where the log declares none |
    | `domain` | string | the row's domain; null where it has none |
    | `user` | int64 | key of the user; absent where the log declares none |
    | `y.TASK` | float | the label; null where it is masked |
    | `own.METHOD.TASK` | double | the task's own probability, a conversion's given its click |
    | `all.METHOD.TASK` | double | the task's probability over all rows |
    | `served` | dictionary of string | the published kernel that serves the row, or `base` |
    | `t.COLUMN` | double | a planted log's true probability |

    METHOD is `base`, `iak` (every tuned kernel) or `iak_published` (kernels that the gate
    published).
    """

    format: Literal[2] = 2
    """Number of this document's format."""
    split: str
    """Split of the rows."""
    rows: Annotated[int, Field(ge=0)] | None = None
    """Rows of the split in the files of all workers; unknown in files of format 1."""
    row_id: str | None = None
    """Column of the log that `id` holds."""
    has_users: bool
    """Whether the log declares a user, and the files have the column `user`."""
    tasks: tuple[MetricTask, ...]
    """What metrics judge, and how they read it from the columns."""
    methods: tuple[str, ...]
    """Methods whose probabilities the files hold."""
    base_fingerprint: str
    """The base that was evaluated."""


def metric_tasks(tasks: Sequence[TaskSpec], *, negatives_kept: float) -> tuple[MetricTask, ...]:
    """Return all tasks that metrics judge; a conversion is two, its own and the one over all rows.

    Args:
        tasks: the catalogue's tasks.
        negatives_kept: share of negatives that the sampled log kept.
    """
    click = next((t.title for t in tasks if t.kind == "click"), None)
    metrics: list[MetricTask] = []
    for task in tasks:
        entire = task.entire_space_title if click else None
        own = MetricTask(
            name=task.title,
            task=task.title,
            space="own",
            given=click if entire else None,
            # Sampling dropped rows without a click; among clicked rows all are there.
            kept=1.0 if entire else negatives_kept,
            has_loss=entire is None,
        )
        metrics.append(own)
        if entire:
            metrics.append(
                MetricTask(name=entire, task=task.title, space="all", kept=negatives_kept)
            )
    return tuple(metrics)
