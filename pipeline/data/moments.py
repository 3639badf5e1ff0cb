"""Measure a number over the rows of a window: mean, deviation, and an even sample.

Several workers each measure whole batches that follow each other. Merged, they give the bits that
one worker computes: sums of batches are added in the order of the log, and the sample has the
values at the same positions.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from iak.pipeline.data.features import Floats
from iak.pipeline.data.table_sum import Gather, alone

QUANTILE_SAMPLE = 200_000
"""Most values of a number that are kept for quantiles."""
FENCE = 10.0
"""Distance of the fence from the central values, in spans of the central values."""
FLATTENED = 10.0
"""Factor by which wild values must enlarge the deviation before they are left out of it."""


@dataclass(slots=True)
class Moments:
    """Mean, standard deviation and an even sample of one number, updated batch by batch.

    Squares are summed around the mean of each batch (Chan, Golub, LeVeque 1979). Summed around
    zero, they would lose all precision where the mean is far from zero.
    """

    first: int = 0
    """Finite values of the window before those of this worker."""
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    sample: Floats = field(default_factory=lambda: np.zeros(0))
    """The values whose position in the window is a multiple of `stride`."""
    stride: int = 1
    batches: "array[float]" = field(default_factory=lambda: array("d"))
    """Count, mean and sum of squares of each batch, one after the other."""

    def add(self, values: Floats) -> None:
        """Add more values; those that are not finite are left out."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        # The stride goes on where the values before ended.
        start = -(self.first + self.count) % self.stride
        self.sample = np.concatenate([self.sample, values[start :: self.stride]])
        # Every second value goes, and from now on only every second one is taken: the sample
        # stays even over all values, and does not depend on how they were cut into batches.
        while len(self.sample) > QUANTILE_SAMPLE:
            self.thin(2 * self.stride)
        mean = float(values.mean())
        self._add_batch(len(values), mean, float(np.square(values - mean).sum()))

    def _add_batch(self, rows: int, mean: float, squares: float) -> None:
        self.batches.extend((rows, mean, squares))
        count = self.count + rows
        apart = (mean - self.mean) ** 2 * self.count * rows / count
        self.squares += squares + apart
        self.mean += (mean - self.mean) * rows / count
        self.count = count

    def thin(self, stride: int) -> None:
        """Keep the values of the sample whose position is a multiple of a larger stride."""
        factor = stride // self.stride
        position = -(-self.first // self.stride)  # of the sample's first value, in old strides
        self.sample, self.stride = self.sample[-position % factor :: factor], stride

    def statistics(self) -> tuple[float, float]:
        """Return the mean, and the standard deviation or 1 where the number never varies.

        A few wild values can make the deviation so large that all others look alike. Where most of
        the deviation comes from values beyond the fence, both are taken from the sample within the
        fence. A log without such values has its exact moments.
        """
        mean, deviation = self.mean, float(np.sqrt(self.squares / max(self.count, 1)))
        tame = self._tame()
        if len(tame) and deviation > FLATTENED * float(tame.std()):
            mean, deviation = float(tame.mean()), float(tame.std())
        return mean, deviation if deviation > max(1e-12, 1e-14 * abs(mean)) else 1.0

    def wild(self) -> int:
        """Return the number of sampled values that `statistics` leaves out."""
        tame = self._tame()
        if not len(tame) or self.statistics()[1] == float(np.sqrt(self.squares / self.count)):
            return 0
        return len(self.sample) - len(tame)

    def _tame(self) -> Floats:
        low, high = self.fence()
        return self.sample[(self.sample >= low) & (self.sample <= high)]

    def fence(self) -> tuple[float, float]:
        """Return the bounds beyond which a value is wild; infinite where the number hardly varies.

        They lie `FENCE` spans of the central values outside of the central values. Those are the
        middle 98 % of the sample, or more of it where these are all equal.
        """
        for tail in (0.01, 0.001, 0.0001):
            low, high = np.quantile(self.sample, [tail, 1 - tail]) if len(self.sample) else (0, 0)
            if high > low:
                return float(low - FENCE * (high - low)), float(high + FENCE * (high - low))
        return -np.inf, np.inf

    def quantiles(self, buckets: int) -> Floats:
        """Return the boundaries between `buckets` equally full buckets, without repeats."""
        values = self.sample if len(self.sample) else np.zeros(1)
        return np.unique(np.quantile(values, np.linspace(0, 1, buckets + 1)[1:-1]))


def true_first(own: Moments, rank: int, gather: Gather) -> int | None:
    """Return the finite values before this worker's, where a sample was drawn at other positions.

    A worker begins with the rows before its own, all of which it takes for finite. Where one is
    not, samples of later workers have to be drawn again, unless they have every value.

    Args:
        own: what this worker measured.
        rank: this worker.
        gather: collects from all workers; the call is a collective one.

    Returns:
        None on every worker where all samples are as they should be.
    """
    spans = gather((own.first, own.count))
    firsts = np.cumsum([0, *(count for _, count in spans)]).tolist()
    if _stride_for(firsts[-1]) == 1 or [first for first, _ in spans] == firsts[:-1]:
        return None
    return int(firsts[rank])


def merged(own: Moments, gather: Gather = alone) -> Moments:
    """Return the moments of all workers' values; a collective call.

    Args:
        own: what this worker measured, with the true `first`, or with every value in its sample.
        gather: collects from all workers.
    """
    stride = _stride_for(sum(gather(own.count)))
    if stride > own.stride:
        own.thin(stride)
    whole = Moments(stride=stride)
    parts: Sequence[tuple[Floats, array[float]]] = gather((own.sample, own.batches))
    for _, batches in parts:
        for start in range(0, len(batches), 3):
            rows, mean, squares = batches[start : start + 3]
            whole._add_batch(int(rows), mean, squares)
    whole.sample = np.concatenate([sample for sample, _ in parts])
    return whole


def _stride_for(count: int) -> int:
    """Return the stride at which a sample of so many values has its size."""
    stride = 1
    while -(-count // stride) > QUANTILE_SAMPLE:
        stride *= 2
    return stride
