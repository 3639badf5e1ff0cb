"""Compute losses of rows or groups: log-loss, normalised entropy, calibration.

All are estimates for the full log. Where a sampled log kept a share of its negatives, probabilities
are corrected for it, and a negative weighs 1 / kept. With weights w, losses l, probabilities p and
labels y, the influences of row i are

    log-loss      L = sum w l / sum w      w_i (l_i - L) / sum w
    calibration   c = sum w p / sum y      (w_i p_i - c y_i) / sum y

by the delta method for ratios (Cochran 1977, "Sampling Techniques", 6.3).

Shapes: N rows, G groups.
Source: He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook" for
normalised entropy, calibration and the undoing of negative down-sampling.
"""

from dataclasses import dataclass

import numpy as np

from iak.pipeline.stats.auc import Array, Bools, Floats, Ints, count_per_group, is_positive, ratio

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP] inside a logarithm, which is about the resolution
of float32 at 0 and 1. One row costs 16.1 nats at most."""


def undo_sampling(p: Array, *, kept: float) -> Floats:
    """Return probabilities on the full log, of a model that saw a share of its negatives.

    Args:
        p: the model's own probabilities.
        kept: share of the negatives that the sampled log kept, in (0, 1].

    Raises:
        ValueError: `kept` is out of bounds.
    """
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"the kept share of negatives must be in (0, 1], got {kept}")
    wide = np.asarray(p, dtype=np.float64)
    return wide / (wide + (1.0 - wide) / kept) if kept < 1.0 else wide


def cross_entropy(target: Array, p: Array) -> Floats:
    """Return the loss of every row in nats, with `p` clipped to [CLIP, 1 - CLIP]."""
    clipped = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0 - CLIP)
    target = np.asarray(target, dtype=np.float64)
    loss: Floats = -(target * np.log(clipped) + (1.0 - target) * np.log1p(-clipped))
    return loss


def log_loss(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Return the mean loss in nats per row of the full log; None without rows.

    Args:
        labels: (N,) 0 or 1.
        p: (N,) probabilities as the model gives them.
        kept: share of negatives that the sampled log kept; `p` is corrected for it, and each
            negative here stands for 1 / kept of them.
    """
    return _value(_mean_losses(labels, p, kept=kept).logloss_G)


def label_nats(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Return a lower bound on the information of predictions about the label, in nats per row.

    It is the entropy of the observed rate minus the log-loss, which bounds the mutual information
    from below (Barber and Agakov 2003, "The IM algorithm"). It is negative where knowing the rate
    alone predicts better, and None when a class is missing. The arguments are those of `log_loss`.
    """
    losses = _mean_losses(labels, p, kept=kept)
    return _value(losses.logloss_G / losses.ne_G - losses.logloss_G)


def calibration(labels: Array, p: Array, *, kept: float = 1.0) -> float | None:
    """Return positives predicted over positives observed; None when none was observed.

    The arguments are those of `log_loss`.
    """
    return _value(_mean_losses(labels, p, kept=kept).calibration_G)


def expected_log_loss(p_true: Array, p: Array) -> float | None:
    """Return the log-loss of `p` in nats per row if labels were drawn from `p_true`.

    None without rows.
    """
    return float(cross_entropy(p_true, p).mean()) if np.size(p_true) else None


def reachable_share(p_true: Array, p_base: Array, p_tuned: Array) -> float | None:
    """Return the share of the base's excess loss that the tuned model removed.

    1 is the truth itself. Negative when the tuned model is worse than the base. None when the base
    has no excess, or without rows.

    Args:
        p_true: probabilities from which the labels were drawn.
        p_base: probabilities of the base.
        p_tuned: probabilities of the tuned model.
    """
    if not np.size(p_true):
        return None
    floor = cross_entropy(p_true, p_true)
    excess = float((cross_entropy(p_true, p_base) - floor).mean())
    if excess <= 1e-12:  # rounding of the means
        return None
    return 1.0 - float((cross_entropy(p_true, p_tuned) - floor).mean()) / excess


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Losses of every group, and each row's influence on two of them; NaN marks a missing value."""

    logloss_G: Floats
    ne_G: Floats
    calibration_G: Floats
    logloss_influence_N: Floats
    calibration_influence_N: Floats


def losses_per_group(
    positive: Bools, p: Array, groups: Ints, num_groups: int, kept: float
) -> Losses:
    """Return the losses of every group on the full log, where a negative weighs 1 / kept.

    Args:
        positive: (N,) whether the row's label is 1.
        p: (N,) probabilities as the model gives them.
        groups: (N,) group of the row.
        num_groups: G.
        kept: share of negatives that the sampled log kept.
    """
    q = undo_sampling(p, kept=kept)
    weight = np.where(positive, 1.0, 1.0 / kept)
    weight_G = count_per_group(groups, num_groups, weights=weight)
    observed_G = count_per_group(groups, num_groups, weights=positive)
    predicted_G = count_per_group(groups, num_groups, weights=weight * q)
    loss = weight * cross_entropy(positive, q)
    logloss_G = ratio(count_per_group(groups, num_groups, weights=loss), weight_G)
    rate_G = ratio(observed_G, weight_G)
    has_both_G = (rate_G > 0) & (rate_G < 1)
    # A rate of one half stands in where the entropy is 0, to divide without a warning.
    safe_G = np.where(has_both_G, rate_G, 0.5)
    entropy_G = -(safe_G * np.log(safe_G) + (1 - safe_G) * np.log1p(-safe_G))
    calibration_G = ratio(predicted_G, observed_G)
    error_N = weight * q - calibration_G[groups] * positive
    return Losses(
        logloss_G=logloss_G,
        ne_G=np.where(has_both_G, logloss_G / entropy_G, np.nan),
        calibration_G=calibration_G,
        logloss_influence_N=(loss - weight * logloss_G[groups]) / weight_G[groups],
        calibration_influence_N=ratio(error_N, observed_G[groups]),
    )


def _mean_losses(labels: Array, p: Array, *, kept: float) -> Losses:
    return losses_per_group(is_positive(labels), p, np.zeros(labels.size, dtype=np.int64), 1, kept)


def _value(value_G: Floats) -> float | None:
    return None if np.isnan(value_G[0]) else float(value_G[0])
