"""Measure every method by task and domain: `evaluate_methods` returns the table of metrics.

A metric that cannot be computed is None, with the reason beside it; never 0.5, never NaN. Each
metric is compared with the base's on the same rows, with a 95 % interval.

    losses.py        log-loss, normalised entropy, calibration
    auc.py           AUC, GAUC and DeLong's error
    groups.py        rows cut by domain, or all together
    clusters.py      rows of one user are dependent
    differences.py   differences to the base, and their intervals
    measures.py      all of these of one method on one task, in every group
    metrics.py       the table of them

Shapes: N rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from iak.pipeline.stats.auc import Array, Bools, is_positive
from iak.pipeline.stats.clusters import ClusterKind
from iak.pipeline.stats.groups import (
    Groups,
    Ranked,
    codes_of,
    groups_by_domain,
    one_group,
    rank_probabilities,
)
from iak.pipeline.stats.measures import Measures, measure, placements_of, summarise

ALL = "all"
"""Name of the row that averages the domains, each weighted by its rows."""

POOLED_ROWS = "pooled"
"""Name of the row that ranks all domains' rows together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """One method on one task in one domain; `reasons` says why a metric is None."""

    method: str
    domain: str
    task: str
    rows: int
    positives: int
    auc: float | None
    gauc: float | None
    logloss: float | None
    ne: float | None
    calibration: float | None
    delta_auc: float | None
    delta_auc_low: float | None
    delta_auc_high: float | None
    reasons: dict[str, str]
    delta_logloss: float | None = None
    """Log-loss divided by the base's, minus 1: -0.01 is one per cent lower."""
    delta_logloss_low: float | None = None
    delta_logloss_high: float | None = None
    delta_calibration: float | None = None
    """Distance of the calibration from 1 minus that of the base: negative is nearer to 1."""
    delta_calibration_low: float | None = None
    delta_calibration_high: float | None = None
    cluster: ClusterKind = "row"
    """Unit that intervals take as independent: users, or rows where the log declares no user."""
    clusters: int = 0
    """Number of these units."""
    se_ratio: float | None = None
    """Standard error of delta_auc clustered by user, divided by DeLong's, which takes rows as
    independent. None where rows are the clusters or DeLong's is 0."""


class BesideBase(NamedTuple):
    """One method's metrics on a set of rows, and three of the base's on the same rows."""

    row: MetricRow
    base_auc: float | None
    base_logloss: float | None
    base_calibration: float | None


def metric_rows(
    *,
    method: str,
    domains: Sequence[str],
    domain_index: Array,
    task: str,
    labels: Array,
    p: Array,
    p_base: Array,
    users: Array | None,
    kept: float,
) -> list[BesideBase]:
    """Measure one method on many sets of rows in one pass, beside the base on the same rows.

    Args:
        method: name of the method.
        domains: name of each set of rows.
        domain_index: (N,) index into `domains`.
        task: name of the task.
        labels: (N,) 0 or 1.
        p: (N,) the method's probabilities.
        p_base: (N,) the base's probabilities.
        users: (N,) user keys, for GAUC and for intervals; None when rows carry none.
        kept: share of negatives that the sampled log kept; see `log_loss`.
    """
    positive = is_positive(labels)
    codes = None if users is None else codes_of(users)
    groups = groups_by_domain(domain_index, len(domains), codes)
    mine = rank_probabilities(p, what=f"{method}, {task}")
    base = rank_probabilities(p_base, what=f"base, {task}")
    measures = measure(positive, mine, base, placements_of(positive, base, groups), groups, kept)
    return [
        BesideBase(
            row=_row(measures, group, method=method, domain=domain, task=task),
            base_auc=_value(measures.base_auc_G[group]),
            base_logloss=_value(measures.base_logloss_G[group]),
            base_calibration=_value(measures.base_calibration_G[group]),
        )
        for group, domain in enumerate(domains)
    ]


def evaluate_methods(
    labels: Mapping[str, Array],
    probabilities: Mapping[str, Mapping[str, Array]],
    *,
    domain_index: Array,
    domain_names: Sequence[str],
    users: Array | None = None,
    masks: Mapping[str, Array] | None = None,
    kept: Mapping[str, float] | None = None,
    base: str = "base",
) -> list[MetricRow]:
    """Measure every method on every task, in each domain, over all domains, and pooled.

    Args:
        labels: task -> (N,) 0 or 1.
        probabilities: method -> task -> (N,) probabilities; must hold `base`.
        domain_index: (N,) index into `domain_names`.
        domain_names: names of the domains; a name without rows gets a row that says so.
        users: (N,) user keys, for GAUC and for intervals; None when rows carry none.
        masks: task -> (N,) whether the row counts for the task (cvr counts clicked rows only);
            a task without a mask counts every row.
        kept: task -> share of negatives that the sampled log kept; 1 when absent.
        base: the method that deltas are taken against; its own delta is 0.

    Returns:
        For every method, for every task: a row per domain in the order of `domain_names`, then
        "all" (row-weighted mean over the domains that have the metric), then "pooled" (all rows
        ranked together). All methods are measured on the same rows.

    Raises:
        ValueError: `base` is missing, shapes differ, or a domain index or name is not usable.
    """
    _check_table(labels, probabilities, domain_index, domain_names, users, masks, base)
    codes = None if users is None else codes_of(users)
    domain_N = np.asarray(domain_index, dtype=np.int64)
    cuts = (
        groups_by_domain(domain_N, len(domain_names), codes),
        one_group(domain_N.size, codes),
    )
    table: dict[tuple[str, str], list[MetricRow]] = {}
    for task, task_labels in labels.items():
        mask_N = np.asarray((masks or {}).get(task, np.ones(domain_N.size)), dtype=bool)
        ranked = {
            method: rank_probabilities(of_task[task][mask_N], what=f"{method}, {task}")
            for method, of_task in probabilities.items()
        }
        task_cuts = tuple(cut.take(mask_N) for cut in cuts)
        share = (kept or {}).get(task, 1.0)
        rows = _task_rows(
            is_positive(task_labels[mask_N]), ranked, task_cuts, domain_names, task, base, share
        )
        table.update(rows)
    return [row for method in probabilities for task in labels for row in table[method, task]]


def _task_rows(
    positive: Bools,
    ranked: Mapping[str, Ranked],
    cuts: tuple[Groups, ...],
    domain_names: Sequence[str],
    task: str,
    base: str,
    kept: float,
) -> dict[tuple[str, str], list[MetricRow]]:
    """Return (method, task) -> the rows of one task.

    Args:
        positive: (N,) whether the row's label is 1, of the rows that count for the task.
        ranked: method -> its probabilities on these rows.
        cuts: these rows by domain, and all together.
        domain_names: names of the first cut's groups.
        task: its name.
        base: name of the method that deltas are taken against.
        kept: share of negatives that the sampled log kept.
    """
    by_domain, together = cuts
    base_placements = [placements_of(positive, ranked[base], cut) for cut in cuts]
    rows: dict[tuple[str, str], list[MetricRow]] = {}
    for method, mine in ranked.items():
        each = measure(positive, mine, ranked[base], base_placements[0], by_domain, kept)
        pooled = measure(positive, mine, ranked[base], base_placements[1], together, kept)
        rows[method, task] = [
            *(
                _row(each, g, method=method, domain=name, task=task)
                for g, name in enumerate(domain_names)
            ),
            _row(summarise(each), 0, method=method, domain=ALL, task=task),
            _row(pooled, 0, method=method, domain=POOLED_ROWS, task=task),
        ]
    return rows


def _row(measures: Measures, group: int, *, method: str, domain: str, task: str) -> MetricRow:
    """Return the table's row for one group, in which NaN becomes None with its reason."""
    columns = {
        "auc": measures.auc_G,
        "gauc": measures.gauc_G,
        "logloss": measures.logloss_G,
        "ne": measures.ne_G,
        "calibration": measures.calibration_G,
    }
    for name, delta in (
        ("delta_auc", measures.auc_delta),
        ("delta_logloss", measures.logloss_delta),
        ("delta_calibration", measures.calibration_delta),
    ):
        columns |= {name: delta.value_G, f"{name}_low": delta.low_G, f"{name}_high": delta.high_G}
    values = {name: _value(value_G[group]) for name, value_G in columns.items()}
    missing = [name for name, value in values.items() if value is None]
    why = _why_missing(measures, group) if missing else {}
    return MetricRow(
        method=method,
        domain=domain,
        task=task,
        rows=int(measures.rows_G[group]),
        positives=int(measures.positives_G[group]),
        reasons={name: why[name.removesuffix("_low").removesuffix("_high")] for name in missing},
        cluster=measures.influences.clusters.kind,
        clusters=int(measures.clusters_G[group]),
        se_ratio=_value(measures.se_ratio_G[group]),
        **values,
    )


def _value(value: float) -> float | None:
    """Return a metric as a float; None where it is NaN."""
    return None if math.isnan(value) else float(value)


def _why_missing(measures: Measures, group: int) -> dict[str, str]:
    """Return, for every metric, the reason why it would be missing in a group."""
    rows, positives = int(measures.rows_G[group]), int(measures.positives_G[group])
    not_finite = int(measures.not_finite_G[group])
    base_not_finite = int(measures.base_not_finite_G[group])
    has_both = 0 < positives < rows
    general = ""
    if not rows:
        general = "no row"
    elif not_finite:
        general = f"{not_finite:,} of {rows:,} probabilities are not finite"
    one_class = f"no {'negative' if positives else 'positive'} row among {rows:,}"
    # Both classes and still no AUC: it is the row "all", and no single domain has both.
    classes = general or ("no domain has rows of both classes" if has_both else one_class)
    base = f"{base_not_finite:,} of the base's {rows:,} probabilities are not finite"
    users = "no user has rows of both classes" if measures.has_users else "the rows carry no user"
    few = _too_few(measures, group)
    compared = general or (base if base_not_finite else few)
    return {
        "auc": classes,
        "gauc": general or (users if has_both or not measures.has_users else classes),
        "logloss": general,
        "ne": classes,
        "calibration": classes,
        "delta_auc": general or (base if base_not_finite else few if has_both else classes),
        "delta_logloss": compared,
        "delta_calibration": compared if positives else classes,
    }


def _too_few(measures: Measures, group: int) -> str:
    """Return the reason why a difference has no interval although its rows have both classes."""
    rows, positives = int(measures.rows_G[group]), int(measures.positives_G[group])
    if measures.clusters_G[group] < 2:
        return "one row alone" if rows == 1 else f"all {rows:,} rows are one user's"
    if min(positives, rows - positives) < 2:
        return f"fewer than two rows of a class: {positives:,} of {rows:,} are positive"
    if measures.has_users and not np.isnan(measures.delong_se_G[group]):
        return "all rows of a class are one user's"
    return "no domain has two rows of each class"


def _check_table(
    labels: Mapping[str, Array],
    probabilities: Mapping[str, Mapping[str, Array]],
    domain_index: Array,
    domain_names: Sequence[str],
    users: Array | None,
    masks: Mapping[str, Array] | None,
    base: str,
) -> None:
    """Refuse a table whose parts do not belong together."""
    if base not in probabilities:
        raise ValueError(f"no probabilities of the base {base!r} among {sorted(probabilities)}")
    if taken := {ALL, POOLED_ROWS} & set(domain_names):
        raise ValueError(f"domain names {sorted(taken)} are taken by the summary rows")
    num_rows = domain_index.size
    if num_rows and not 0 <= domain_index.min() <= domain_index.max() < len(domain_names):
        raise ValueError(
            f"domain indices must be in [0, {len(domain_names)}), "
            f"seen {domain_index.min()} to {domain_index.max()}"
        )
    arrays = {f"labels of {task}": value for task, value in labels.items()}
    arrays |= {f"mask of {task}": value for task, value in (masks or {}).items()}
    if users is not None:
        arrays["users"] = users
    for method, of_task in probabilities.items():
        if lacking := sorted(set(labels) - set(of_task)):
            raise ValueError(f"method {method!r} has no probabilities for {lacking}")
        arrays |= {f"{method}, {task}": value for task, value in of_task.items()}
    for what, value in arrays.items():
        if value.shape != (num_rows,):
            raise ValueError(f"{what}: shape {value.shape}, expected ({num_rows},), one per row")
