"""Shrink what was measured of many domains by how uncertain each is: towards their mean, or zero.

A gain g with standard error e, among domains whose true gains vary by tau around mu, is expected to
be truly

    mu + (g - mu) * tau^2 / (tau^2 + e^2)

A domain with few rows is moved far towards the mean of the others. One with many keeps its gain.

Where zero is what they borrow from, mu is 0, and the share tau^2 / (tau^2 + e^2) of each change is
kept. Then even one domain has an estimate: with G gains, the expected sum of (g / e)^2 is
G + tau^2 * sum 1 / e^2.

Source: DerSimonian and Laird 1986, "Meta-analysis in clinical trials", for tau^2 by moments; Efron
and Morris 1975, "Data analysis using Stein's estimator and its generalizations".

Shapes: G domains.
"""

import numpy as np

from iak.pipeline.stats.auc import Floats


def shrunk_means(means_G: Floats, errors_G: Floats) -> Floats:
    """Return the expected true mean of each domain; NaN where it has no error.

    Args:
        means_G: measured means.
        errors_G: standard errors. Domains whose error is not finite or not positive take no part.
    """
    is_known_G = np.isfinite(means_G) & np.isfinite(errors_G) & (errors_G > 0)
    shrunk_G: Floats = np.full(means_G.shape, np.nan)
    if not is_known_G.any():
        return shrunk_G
    means, variances = means_G[is_known_G], errors_G[is_known_G] ** 2
    between = _variance_between(means, variances)
    center = float(np.average(means, weights=1 / (between + variances)))
    kept = between / (between + variances)
    shrunk_G[is_known_G] = means if means.size == 1 else center + (means - center) * kept
    return shrunk_G


def kept_shares(gains_G: Floats, errors_G: Floats) -> Floats:
    """Return the share of its own change that each domain keeps; the rest is its parent's.

    Args:
        gains_G: measured gain of each domain over its parent.
        errors_G: standard errors. A domain whose gain or error is not finite keeps nothing, since
            nothing is known of it. One with an error of 0 keeps all. Neither takes part in tau^2.

    Returns:
        Shares between 0 and 1; all 0 where the gains differ from zero by no more than their errors.
    """
    is_known_G = np.isfinite(gains_G) & np.isfinite(errors_G) & (errors_G > 0)
    shares_G: Floats = np.where(np.isfinite(gains_G) & (errors_G == 0), 1.0, 0.0)
    if is_known_G.any():
        variances = errors_G[is_known_G] ** 2
        excess = float(np.sum(gains_G[is_known_G] ** 2 / variances)) - variances.size
        between = max(excess / float(np.sum(1 / variances)), 0.0)
        shares_G[is_known_G] = between / (between + variances)
    return shares_G


def _variance_between(means: Floats, variances: Floats) -> float:
    """Return tau^2: the variance of the true means, which is at least 0."""
    weights = 1 / variances
    center = np.average(means, weights=weights)
    excess = float(np.sum(weights * (means - center) ** 2)) - (means.size - 1)
    scale = float(weights.sum() - np.sum(weights**2) / weights.sum())
    return max(excess / scale, 0.0) if scale > 0 else 0.0
