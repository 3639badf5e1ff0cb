"""Compute calibration curves: predicted against observed rates, in bins of equal size.

Shapes: N rows, B bins.
Source: Niculescu-Mizil & Caruana 2005, "Predicting Good Probabilities with Supervised Learning",
with bins of equally many rows, since most click rates are near 0.
"""

import numpy as np

from iak.pipeline.stats.auc import Array, is_positive
from iak.pipeline.stats.losses import undo_sampling

MAX_BINS = 10
"""Bins of a curve at most."""
MIN_ROWS = 50
"""Rows of a bin at least. The observed share of fewer rows is mostly noise."""


def reliability(
    labels: Array, p: Array, *, kept: float = 1.0, bins: int = MAX_BINS
) -> list[tuple[float, float, int]]:
    """Return mean prediction, observed share and rows of each bin, lowest predictions first.

    A bin has at least `MIN_ROWS` rows, and rows with the same prediction share a bin. So there may
    be fewer bins than `bins`. Means are of the full log: where it was sampled, a negative weighs
    1 / kept.

    Args:
        labels: (N,) 0 or 1.
        p: (N,) probabilities as the model gives them; rows where they are not finite are left out.
        kept: share of negatives that the sampled log kept.
        bins: most bins that the curve has.
    """
    finite_N = np.isfinite(p)
    q_N = undo_sampling(np.asarray(p)[finite_N], kept=kept)
    positive_N = is_positive(np.asarray(labels)[finite_N])
    if not q_N.size:
        return []
    bins = max(1, min(bins, q_N.size // MIN_ROWS))
    # Edges are predictions that occur: equal ones then never lie on both sides of an edge.
    edges = np.unique(np.quantile(q_N, np.arange(1, bins) / bins, method="lower"))
    bin_N = np.searchsorted(edges, q_N, side="left")
    weight_N = np.where(positive_N, 1.0, 1.0 / kept)
    rows_B = np.bincount(bin_N)
    weight_B = np.bincount(bin_N, weights=weight_N)
    predicted_B = np.bincount(bin_N, weights=weight_N * q_N)
    observed_B = np.bincount(bin_N, weights=positive_N)
    return [
        (float(predicted_B[b] / weight_B[b]), float(observed_B[b] / weight_B[b]), int(rows_B[b]))
        for b in np.flatnonzero(rows_B)
    ]
