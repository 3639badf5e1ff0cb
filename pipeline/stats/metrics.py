"""Quality of every method, per task and domain: `evaluate_methods` gives the rows of the table.

A metric that cannot be computed is None, with the reason beside it; never 0.5, never NaN. (Inside
this file, NaN marks the hole; it does not leave.)

Shapes: N rows, G groups (domains, or one group of all rows).
Source: He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook" for
normalised entropy, calibration and the undoing of negative down-sampling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.stats.auc import (
    Array,
    Bools,
    Floats,
    Ints,
    auc_per_group,
    count_per_group,
    delta_per_group,
    dense_ranks,
    gauc_per_parent,
    interval,
    is_positive,
    placements,
    ratio,
)

CLIP = 1e-7
"""Probabilities are held in [CLIP, 1 - CLIP] inside a logarithm: about what float32 can tell from
0 and 1. One row costs 16.1 nats at most."""

ALL = "all"
"""The row that averages the domains, each weighted by its rows."""

POOLED = "pooled"
"""The row that ranks all domains' rows together."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Metrics of one method on one task, one value per group; NaN marks what has no value.

    `broken_G` counts the probabilities that are not finite, `base_broken_G` the base's.
    """

    rows_G: Ints
    positives_G: Ints
    auc_G: Floats
    gauc_G: Floats
    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats
    delta_G: Floats
    se_G: Floats
    broken_G: Ints
    base_broken_G: Ints
    has_users: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """One way to cut the rows: a group per row, and a group per row and user (GAUC's cut)."""

    of_row_N: Ints
    num_groups: int
    user_N: Ints | None
    group_of_user_U: Ints | None

    def take(self, kept_N: Bools) -> "Groups":
        """The same cut of the kept rows only."""
        user_N = None if self.user_N is None else self.user_N[kept_N]
        return Groups(
            of_row_N=self.of_row_N[kept_N],
            num_groups=self.num_groups,
            user_N=user_N,
            group_of_user_U=self.group_of_user_U,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One method's probabilities on one task's rows, made safe to sort, and their ranks."""

    p_N: Floats
    ranks_N: Ints
    broken_N: Bools


# ---------------------------------------------------------------- losses of one set of rows


def undo_sampling(p: Array, *, kept: float) -> Floats:
    """Probabilities on the full log, when only a share `kept` of its negatives was trained on."""
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"the kept share of negatives must be in (0, 1], got {kept}")
    wide = np.asarray(p, dtype=np.float64)
    return wide / (wide + (1.0 - wide) / kept) if kept < 1.0 else wide


def cross_entropy(target: Array, p: Array) -> Floats:
    """Loss of every row in nats; `p` is held in [CLIP, 1 - CLIP]."""
    held = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0 - CLIP)
    target = np.asarray(target, dtype=np.float64)
    loss: Floats = -(target * np.log(held) + (1.0 - target) * np.log1p(-held))
    return loss


def log_loss(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Mean loss in nats per row of the full log; None without rows.

    Args:
        labels: (N,) 0 or 1.
        p: (N,) probabilities as the model gives them.
        kept: share of negatives that the sampled log kept; `p` is corrected for it, and each
            negative here stands for 1 / kept of them.
    """
    return _value(_mean_losses(labels, p, kept=kept).logloss_G)


def normalized_entropy(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Log loss over the entropy of the observed rate: 1 is as good as knowing the rate alone.

    None when a class is missing: its rate has no entropy.
    """
    return _value(_mean_losses(labels, p, kept=kept).ne_G)


def calibration(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Positives predicted over positives observed; None when none was observed."""
    return _value(_mean_losses(labels, p, kept=kept).calibration_G)


def expected_log_loss(p_true: Array, p: Array) -> float | None:
    """Log loss of `p` in nats per row, were labels drawn from `p_true`; None without rows."""
    return float(cross_entropy(p_true, p).mean()) if np.size(p_true) else None


def reachable_share(p_true: Array, p_base: Array, p_tuned: Array) -> float | None:
    """Share of the base's excess loss that the tuned model removed; 1 is the truth itself.

    Negative when the tuned model is worse than the base; None when the base has no excess.
    """
    if not np.size(p_true):
        return None
    floor = cross_entropy(p_true, p_true)
    excess = float((cross_entropy(p_true, p_base) - floor).mean())
    if excess <= 1e-12:  # rounding of the means
        return None
    return 1.0 - float((cross_entropy(p_true, p_tuned) - floor).mean()) / excess


@dataclass(frozen=True, kw_only=True, slots=True)
class _Losses:
    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats


def _losses(positive: Bools, p: Array, groups: Ints, num_groups: int, kept: float) -> _Losses:
    """Losses of every group on the full log: negatives weigh 1 / kept."""
    q = undo_sampling(p, kept=kept)
    weight = np.where(positive, 1.0, 1.0 / kept)
    weight_G = count_per_group(groups, num_groups, weights=weight)
    observed_G = count_per_group(groups, num_groups, weights=positive)
    predicted_G = count_per_group(groups, num_groups, weights=weight * q)
    loss = weight * cross_entropy(positive, q)
    logloss_G = ratio(count_per_group(groups, num_groups, weights=loss), weight_G)
    rate_G = ratio(observed_G, weight_G)
    has_both_G = (rate_G > 0) & (rate_G < 1)
    safe_G = np.where(has_both_G, rate_G, 0.5)
    entropy_G = -(safe_G * np.log(safe_G) + (1 - safe_G) * np.log1p(-safe_G))
    return _Losses(
        logloss_G=logloss_G,
        ne_G=np.where(has_both_G, logloss_G / entropy_G, np.nan),
        calibration_G=ratio(predicted_G, observed_G),
    )


def _mean_losses(labels: Array, p: Array, *, kept: float) -> _Losses:
    return _losses(is_positive(labels), p, np.zeros(labels.size, dtype=np.int64), 1, kept)


def _value(value_G: Floats) -> float | None:
    return None if np.isnan(value_G[0]) else float(value_G[0])


# ---------------------------------------------------------------- one method, group by group


def _one_group(num_rows: int, user_codes: Ints | None) -> Groups:
    """All rows ranked together."""
    num_users = int(user_codes.max()) + 1 if user_codes is not None and num_rows else 0
    return Groups(
        of_row_N=np.zeros(num_rows, dtype=np.int64),
        num_groups=1,
        user_N=user_codes,
        group_of_user_U=None if user_codes is None else np.zeros(num_users, dtype=np.int64),
    )


def _by_domain(domain_N: Ints, num_domains: int, user_codes: Ints | None) -> Groups:
    """Rows cut by domain; a user seen in two domains is two users."""
    if user_codes is None:
        return Groups(of_row_N=domain_N, num_groups=num_domains, user_N=None, group_of_user_U=None)
    pairs, pair_N = np.unique(user_codes * num_domains + domain_N, return_inverse=True)
    return Groups(
        of_row_N=domain_N,
        num_groups=num_domains,
        user_N=pair_N,
        group_of_user_U=pairs % num_domains,
    )


def _ranked(p: Array, *, what: str) -> Ranked:
    """Ranks of `p`; values that are not finite are set aside as one half and counted later."""
    p_N = np.asarray(p, dtype=np.float64)
    broken_N: Bools = ~np.isfinite(p_N)
    if broken_N.any():
        p_N = np.where(broken_N, 0.5, p_N)
    if p_N.size and (p_N.min() < 0.0 or p_N.max() > 1.0):
        raise ValueError(
            f"{what}: probabilities must be in [0, 1], seen {p_N.min():.4g} to {p_N.max():.4g}; "
            "pass the sigmoid of the logits"
        )
    return Ranked(p_N=p_N, ranks_N=dense_ranks(p_N), broken_N=broken_N)


def _placements(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    return placements(positive, ranked.ranks_N, groups.of_row_N, groups.num_groups)


def _broken(ranked: Ranked, groups: Groups) -> Ints:
    return np.bincount(groups.of_row_N[ranked.broken_N], minlength=groups.num_groups)


def _gauc(positive: Bools, ranked: Ranked, groups: Groups) -> Floats:
    if groups.user_N is None or groups.group_of_user_U is None:
        return np.full(groups.num_groups, np.nan)
    return gauc_per_parent(
        positive, ranked.ranks_N, groups.user_N, groups.group_of_user_U, groups.num_groups
    )[0]


def _measure(
    positive: Bools,
    mine: Ranked,
    base: Ranked,
    base_placement: Floats,
    groups: Groups,
    kept: float,
) -> Measures:
    """Every metric of one method in every group; a group with broken probabilities has none."""
    of_row_N, num_groups = groups.of_row_N, groups.num_groups
    placement = base_placement if mine is base else _placements(positive, mine, groups)
    paired = delta_per_group(placement, base_placement, positive, of_row_N, num_groups)
    losses = _losses(positive, mine.p_N, of_row_N, num_groups, kept)
    broken_G, base_broken_G = _broken(mine, groups), _broken(base, groups)

    def whole(value_G: Floats, hole_G: Ints = broken_G) -> Floats:
        return np.where(hole_G > 0, np.nan, value_G)

    return Measures(
        rows_G=np.bincount(of_row_N, minlength=num_groups),
        positives_G=np.bincount(of_row_N[positive], minlength=num_groups),
        auc_G=whole(auc_per_group(placement, positive, of_row_N, num_groups)),
        gauc_G=whole(_gauc(positive, mine, groups)),
        logloss_G=whole(losses.logloss_G),
        ne_G=whole(losses.ne_G),
        calibration_G=whole(losses.calibration_G),
        delta_G=whole(paired.delta_G, broken_G + base_broken_G),
        se_G=whole(paired.se_G, broken_G + base_broken_G),
        broken_G=broken_G,
        base_broken_G=base_broken_G,
        has_users=groups.user_N is not None,
    )


def summarise(measures: Measures) -> Measures:
    """The one group "all": each metric's row-weighted mean over the domains that have it.

    The domains' rows are distinct, so their deltas are independent: the error of the mean is the
    root of the summed squares of weight times error.
    """

    def mean(value_G: Floats) -> Floats:
        weight_G = np.where(np.isnan(value_G), 0.0, measures.rows_G)
        return ratio(_sum(weight_G * np.nan_to_num(value_G)), _sum(weight_G))

    weight_G = np.where(np.isnan(measures.delta_G), 0.0, measures.rows_G)
    squares = _sum((weight_G * np.nan_to_num(measures.se_G)) ** 2)
    return Measures(
        rows_G=measures.rows_G.sum(keepdims=True),
        positives_G=measures.positives_G.sum(keepdims=True),
        auc_G=mean(measures.auc_G),
        gauc_G=mean(measures.gauc_G),
        logloss_G=mean(measures.logloss_G),
        ne_G=mean(measures.ne_G),
        calibration_G=mean(measures.calibration_G),
        delta_G=mean(measures.delta_G),
        se_G=ratio(np.sqrt(squares), _sum(weight_G)),
        broken_G=measures.broken_G.sum(keepdims=True),
        base_broken_G=measures.base_broken_G.sum(keepdims=True),
        has_users=measures.has_users,
    )


def _sum(value_G: Floats) -> Floats:
    total: Floats = np.sum(value_G, keepdims=True)
    return total


# ---------------------------------------------------------------- rows of the table


def _why_missing(measures: Measures, group: int) -> dict[str, str]:
    """For every metric that may be missing in `group`, the reason it would be missing for."""
    rows, positives = int(measures.rows_G[group]), int(measures.positives_G[group])
    broken, base_broken = int(measures.broken_G[group]), int(measures.base_broken_G[group])
    has_both = 0 < positives < rows
    general = ""
    if not rows:
        general = "no row"
    elif broken:
        general = f"{broken:,} of {rows:,} probabilities are not finite"
    one_class = f"no {'negative' if positives else 'positive'} row among {rows:,}"
    # With both classes at hand, it is the row "all", and no single domain has them.
    classes = general or ("no domain has rows of both classes" if has_both else one_class)
    too_few = f"fewer than two rows of a class: {positives:,} of {rows:,} are positive"
    if min(positives, rows - positives) > 1:
        too_few = "no domain has two rows of each class"
    base = f"{base_broken:,} of the base's {rows:,} probabilities are not finite"
    users = "no user has rows of both classes" if measures.has_users else "the rows carry no user"
    return {
        "auc": classes,
        "gauc": general or (users if has_both or not measures.has_users else classes),
        "logloss": general,
        "ne": classes,
        "calibration": classes,
        "delta_auc": general or (base if base_broken else too_few if has_both else classes),
    }


def _row(measures: Measures, group: int, *, method: str, domain: str, task: str) -> MetricRow:
    """The table's row for one group: NaN becomes None, with its reason."""
    delta, se = float(measures.delta_G[group]), float(measures.se_G[group])
    low, high = interval(delta, se)
    found = {
        "auc": float(measures.auc_G[group]),
        "gauc": float(measures.gauc_G[group]),
        "logloss": float(measures.logloss_G[group]),
        "ne": float(measures.ne_G[group]),
        "calibration": float(measures.calibration_G[group]),
        "delta_auc": delta,
        "delta_auc_low": low,
        "delta_auc_high": high,
    }
    values = {name: None if np.isnan(value) else value for name, value in found.items()}
    missing = [name for name, value in values.items() if value is None]
    why = _why_missing(measures, group) if missing else {}
    return MetricRow(
        method=method,
        domain=domain,
        task=task,
        rows=int(measures.rows_G[group]),
        positives=int(measures.positives_G[group]),
        reasons={name: why[name.removesuffix("_low").removesuffix("_high")] for name in missing},
        **values,
    )


def metric_row(
    *,
    method: str,
    domain: str,
    task: str,
    labels: Array,
    p: Array,
    p_base: Array,
    users: Array | None = None,
    kept: float = 1.0,
) -> MetricRow:
    """One method on one set of rows, beside the base on the same rows.

    Args:
        method: name of the method.
        domain: name of the set of rows.
        task: name of the task.
        labels: (N,) 0 or 1.
        p: (N,) the method's probabilities.
        p_base: (N,) the base's.
        users: (N,) user keys, for GAUC.
        kept: share of negatives that the sampled log kept; see `log_loss`.
    """
    positive = is_positive(labels)
    groups = _one_group(labels.size, None if users is None else _codes(users))
    mine = _ranked(p, what=f"{method}, {task}")
    base = _ranked(p_base, what=f"base, {task}")
    measures = _measure(positive, mine, base, _placements(positive, base, groups), groups, kept)
    return _row(measures, 0, method=method, domain=domain, task=task)


def _codes(users: Array) -> Ints:
    """User keys as 0, 1, 2, ..."""
    return dense_ranks(users)


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
    """Every method on every task, in each domain, over all of them, and pooled.

    Args:
        labels: task -> (N,) 0 or 1.
        probabilities: method -> task -> (N,) probabilities; must hold `base`.
        domain_index: (N,) index into `domain_names`.
        domain_names: names of the domains; a name without rows gets a row that says so.
        users: (N,) user keys, for GAUC; None when rows carry none.
        masks: task -> (N,) whether the row counts for the task (cvr counts clicked rows only);
            a task without a mask counts every row.
        kept: task -> share of negatives that the sampled log kept; 1 when absent.
        base: the method that deltas are taken against; its own delta is 0.

    Returns:
        For every method, for every task: a row per domain in the order of `domain_names`, then
        "all" (row-weighted mean over the domains that have the metric), then "pooled" (all rows
        ranked together). All methods stand on the same rows.

    Raises:
        ValueError: if `base` is missing, shapes differ, or a domain index or name is not usable.
    """
    _check_table(labels, probabilities, domain_index, domain_names, users, masks, base)
    codes = None if users is None else _codes(users)
    domain_N = np.asarray(domain_index, dtype=np.int64)
    cuts = (
        _by_domain(domain_N, len(domain_names), codes),
        _one_group(domain_N.size, codes),
    )
    table: dict[tuple[str, str], list[MetricRow]] = {}
    for task, task_labels in labels.items():
        mask_N = np.asarray((masks or {}).get(task, np.ones(domain_N.size)), dtype=bool)
        ranked = {
            method: _ranked(of_task[task][mask_N], what=f"{method}, {task}")
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
    """(method, task) -> its rows; the base's placements are computed once per cut."""
    by_domain, together = cuts
    base_placements = [_placements(positive, ranked[base], cut) for cut in cuts]
    rows: dict[tuple[str, str], list[MetricRow]] = {}
    for method, mine in ranked.items():
        each = _measure(positive, mine, ranked[base], base_placements[0], by_domain, kept)
        pooled = _measure(positive, mine, ranked[base], base_placements[1], together, kept)
        rows[method, task] = [
            *(
                _row(each, g, method=method, domain=name, task=task)
                for g, name in enumerate(domain_names)
            ),
            _row(summarise(each), 0, method=method, domain=ALL, task=task),
            _row(pooled, 0, method=method, domain=POOLED, task=task),
        ]
    return rows


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
    if taken := {ALL, POOLED} & set(domain_names):
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
