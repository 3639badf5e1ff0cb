"""Choose the settings of a search's trials: the shipped ones first, then points spread evenly.

Every method has the same number of trials. The points are a Halton sequence, scrambled by a seed. A
longer search begins with the trials of a shorter one, so that finished cells are used again.
Source: Owen 2017, "A randomized Halton algorithm in R".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from scipy.stats import qmc

from infra.benchmarks.quality.cells import Hyper


@dataclass(frozen=True, slots=True)
class LogRange:
    """A positive number, searched evenly in its logarithm."""

    start: float
    """The shipped value."""
    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the value at a share of the range, to three digits."""
        value = self.low * (self.high / self.low) ** share
        return float(f"{value:.3g}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, the shipped one first."""

    values: tuple[int | float | str, ...]

    @property
    def start(self) -> int | float | str:
        """Return the shipped value."""
        return self.values[0]

    def at(self, share: float) -> int | float | str:
        """Return the value at a share of the list."""
        return self.values[min(math.floor(share * len(self.values)), len(self.values) - 1)]


def first_of(shipped: int | float | str, *others: int | float | str) -> Choice:
    """Return the choice between the shipped value and others, each once."""
    return Choice(tuple(dict.fromkeys((shipped, *others))))


Space = Mapping[str, LogRange | Choice]
"""Name of a setting -> what is searched."""


def trial_settings(space: Space, *, name: str, trial: int, seed: int) -> Hyper:
    """Return the settings of one trial.

    Args:
        space: of the method.
        name: of the method, which scrambles the points as `seed` does.
        trial: number of the trial; 0 takes the shipped settings.
        seed: of the search.
    """
    if trial == 0 or not space:
        return {setting: searched.start for setting, searched in space.items()}
    halton = qmc.Halton(d=len(space), scramble=True, rng=crc32(f"{name}/{seed}".encode()))
    shares = halton.random(trial)[-1]
    return {
        setting: searched.at(float(share))
        for (setting, searched), share in zip(space.items(), shares, strict=True)
    }


def trials_of(space: Space, asked: int) -> int:
    """Return the number of trials: as many as asked for, or one where nothing can be set."""
    return asked if space else 1
