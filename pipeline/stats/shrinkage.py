"""Shrink the measured gains of many domains towards their common mean, by how uncertain each is.

A gain g with standard error e, among domains whose true gains vary by tau around mu, is expected to
be truly

    mu + (g - mu) * tau^2 / (tau^2 + e^2)

A domain with few rows is moved far towards the mean of the others. One with many keeps its gain.

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


def _variance_between(means: Floats, variances: Floats) -> float:
    """Return tau^2: the variance of the true means, which is at least 0."""
    weights = 1 / variances
    center = np.average(means, weights=weights)
    excess = float(np.sum(weights * (means - center) ** 2)) - (means.size - 1)
    scale = float(weights.sum() - np.sum(weights**2) / weights.sum())
    return max(excess / scale, 0.0) if scale > 0 else 0.0
