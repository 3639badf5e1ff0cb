"""Measure predictions: a method beside the base or a rival, on the same rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.files import putting_file
from iak.pipeline.stats.losses import log_loss
from iak.pipeline.stats.metrics import MetricRow, evaluate_methods
from iak.schemas.log import Catalog
from iak.schemas.predictions import metric_tasks
from infra.benchmarks.quality.cells import Line
from infra.benchmarks.quality.setup import Predicted, Rows

_METHOD, _OTHER = "method", "other"


def lines_of(rows: Rows, predicted: Predicted, other: Predicted) -> tuple[Line, ...]:
    """Return a method's metrics by task and domain, and its differences to another one's.

    Rows without a domain are left out, as in every evaluation of the library.

    Args:
        rows: labels, domains and users.
        predicted: probabilities of the method.
        other: probabilities of what it is compared with.
    """
    has_domain_N = rows.domain_N >= 0
    columns = rows.columns
    table = evaluate_methods(
        _kept(columns.labels, has_domain_N),
        {_OTHER: _kept(other, has_domain_N), _METHOD: _kept(predicted, has_domain_N)},
        domain_index=rows.domain_N[has_domain_N],
        domain_names=rows.domain_names,
        users=None if rows.users_N is None else rows.users_N[has_domain_N],
        masks=_kept(columns.masks, has_domain_N),
        kept=columns.kept,
        base=_OTHER,
    )
    beside = {(row.task, row.domain): row for row in table if row.method == _OTHER}
    return tuple(_line(row, beside[row.task, row.domain]) for row in table if row.method == _METHOD)


def _kept(columns: Mapping[str, np.ndarray], is_kept_N: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[is_kept_N] for name, column in columns.items()}


def _line(row: MetricRow, other: MetricRow) -> Line:
    delta_gauc = None
    if row.gauc is not None and other.gauc is not None:
        delta_gauc = row.gauc - other.gauc
    return Line(
        task=row.task,
        domain=row.domain,
        rows=row.rows,
        positives=row.positives,
        auc=row.auc,
        gauc=row.gauc,
        log_loss=row.logloss,
        ne=row.ne,
        calibration=row.calibration,
        delta_auc=row.delta_auc,
        low=row.delta_auc_low,
        high=row.delta_auc_high,
        delta_gauc=delta_gauc,
        delta_log_loss=row.delta_logloss,
        delta_log_loss_low=row.delta_logloss_low,
        delta_log_loss_high=row.delta_logloss_high,
    )


def selection_loss(rows: Rows, predicted: Predicted, catalog: Catalog) -> float:
    """Return the loss by which settings are chosen: that which every method lowers in training.

    It is the sum over tasks of weight times nats of a row, a conversion's over all rows.

    Args:
        rows: labels and masks of validation rows.
        predicted: probabilities on them.
        catalog: tasks and their weights.
    """
    weights = {task.title: task.weight for task in catalog.tasks}
    total = 0.0
    for task in metric_tasks(catalog.tasks, negatives_kept=1.0):
        is_trained = task.space == "all" or task.has_loss
        mask_N = rows.columns.masks[task.name]
        labels_N = rows.columns.labels[task.name][mask_N]
        loss = log_loss(labels_N, predicted[task.name][mask_N]) if is_trained else None
        total += weights[task.task] * (loss or 0.0)
    return total


def save_predictions(path: Path, predicted: Predicted) -> None:
    """Write probabilities, a column for each metric task."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(predicted)
    table = pa.table([predicted[name] for name in names], names=names)
    with putting_file(path) as part:
        pq.write_table(table, part)


def load_predictions(path: Path) -> Predicted:
    """Read probabilities."""
    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.schema.names}
