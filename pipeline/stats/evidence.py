"""Gather evidence over nights that a chain of kernels is better than what it falls back to.

A test at 5 % that is repeated every night finds a difference in most domains that have none within
a month. Evidence that may be looked at every night is an *e-process*: the wealth of a gambler who
starts with 1 and bets on a game that is at best fair if the chain is no better. It reaches
1 / alpha with a probability of at most alpha, however often one looks (Ville's inequality).

Each night is one bet on one observation x, because the rows of a night share that night's luck. It
is bounded, so that no bet can lose more than the gambler has. With c = MAX_USER_GAIN:

    m = mean over users of c * tanh(gain / (c * scale))    no single user decides
    x = floor * tanh(m / floor)                            no single night decides

so that -floor <= x <= floor. With the base's loss as the scale, m is a share of that loss. The null
hypothesis is that the mean of x, given all nights before, is at most zero. Gains are bounded like
losses: if losses alone were clipped, a game that loses rarely and much would look favourable.

A night's loss above `floor` counts as little more than `floor`. So the test does not cover a chain
that gains a little in most nights and loses far more than `floor` in rare ones. The simulation
`python -m infra.benchmarks gate` measures how often such a chain is proved.

A bet puts a share of the wealth, divided by `floor`, on x. The best share depends on the unknown
gain, so the wealth is split evenly over a grid of shares at the start, and is never moved.

Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting";
Ville 1939, "Étude critique de la notion de collectif".

Shapes: N rows, U users, K bets.
"""

import math
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from scipy.special import logsumexp, stdtrit

from iak.pipeline.stats.auc import Array, Floats
from iak.pipeline.stats.clusters import mean_and_error

BETS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the wealth that the K bets put on a night. All are below 1, so no night takes all."""
MAX_USER_GAIN = 10.0
"""Bound on one user's gain or loss, in shares of the scale. A row on which the base is right and a
kernel is badly wrong loses several times the mean loss, which a smaller bound would hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The evidence of a chain after some nights: the wealth of each bet, and the last night."""

    floor: float
    """Bound on the size of a night's observation; above 0 and at most 1."""
    log_wealth: tuple[float, ...] = (0.0,) * len(BETS)
    """Natural logarithm of each bet's wealth, in the order of `BETS`."""
    nights: int = 0
    """Nights that were counted."""
    last_night: date | None = None
    """The last of them."""

    def __post_init__(self) -> None:
        """Refuse a floor that bounds nothing, and the wealth of other bets."""
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor {self.floor} must be above 0 and at most 1")
        if len(self.log_wealth) != len(BETS):
            raise ValueError(f"wealth of {len(self.log_wealth)} bets, but there are {len(BETS)}")

    @property
    def log_e(self) -> float:
        """Return the natural logarithm of the evidence: the mean wealth over all bets."""
        return float(logsumexp(self.log_wealth)) - math.log(len(BETS))

    def is_counted(self, night: date) -> bool:
        """Return whether a night lies at or before the last one that was counted."""
        return self.last_night is not None and night <= self.last_night

    def add(self, night: date, x: float) -> "Evidence":
        """Return the evidence after one more night.

        Args:
            night: its nominal date, later than that of every night before.
            x: its observation, as `night_observation` returns it.

        Raises:
            ValueError: the night was counted already, or x is below -floor or not a number. A loss
                is never clipped here: the wealth would then no longer bound the error.
        """
        if self.is_counted(night):
            raise ValueError(
                f"night {night} is not after {self.last_night}, the last one that was counted; "
                "a night counts once"
            )
        if not -self.floor <= x < math.inf:
            raise ValueError(
                f"night {night} has the observation {x}; expected {-self.floor} or more"
            )
        gained = np.log1p(np.array(BETS) / self.floor * x)
        return replace(
            self,
            log_wealth=tuple(float(w) for w in self.log_wealth + gained),
            nights=self.nights + 1,
            last_night=night,
        )


def needed_log_e(alpha: float) -> float:
    """Return the evidence at which a chain is shown to be better, as a natural logarithm.

    Args:
        alpha: probability that a chain that is no better ever reaches it. For 0 the result is
            infinite, which no chain reaches.
    """
    return -math.log(alpha) if alpha > 0 else math.inf


def means_of_users(values_N: Floats, keys_N: Array | None) -> Floats:
    """Return the mean of each user's rows, shape (U,), in order of key; rows without users."""
    if keys_N is None:
        return values_N
    _, codes_N = np.unique(keys_N, return_inverse=True)
    means: Floats = np.bincount(codes_N, weights=values_N) / np.bincount(codes_N)
    return means


def bounded_gains(gain_N: Floats, keys_N: Array | None, scale: float) -> Floats:
    """Return each user's mean gain in shares of the scale, bounded, shape (U,); rows without users.

    Args:
        gain_N: nats by which each row's loss is lower, at least one row.
        keys_N: key of each row's user, or of a user's day; None where rows carry none.
        scale: the base's loss in nats a row; fixed when the chain began.
    """
    if not scale > 0:
        raise ValueError(f"scale {scale} must be above 0")
    bounded: Floats = MAX_USER_GAIN * np.tanh(
        means_of_users(gain_N, keys_N) / (MAX_USER_GAIN * scale)
    )
    return bounded


def night_observation(
    gain_N: Floats, users_N: Array | None, *, scale: float, floor: float
) -> float:
    """Return the observation that a night adds to the evidence: x of the module's formula.

    Args:
        gain_N: nats by which each row's loss is lower, at least one row.
        users_N: key of each row's user; None where the log declares none.
        scale: the base's loss in nats a row; fixed when the chain began.
        floor: bound on the size of the observation. A mean gain that is small against it counts in
            full.
    """
    mean = float(bounded_gains(gain_N, users_N, scale).mean())
    return floor * math.tanh(mean / floor)


def lower_bound_of_days(
    gain_N: Floats, days_N: Array, users_N: Array | None, *, scale: float, alpha: float
) -> float | None:
    """Return a lower confidence bound on the mean bounded gain of one night's days.

    All rows of a day share that day's luck. So the standard error is that between days, or that
    between users where it is larger. Student's quantile has one degree of freedom less than days.

    Args:
        gain_N: nats by which each row's loss is lower.
        days_N: day of each row.
        users_N: key of each row's user; None where the log declares none.
        scale: the base's loss in nats a row; fixed when the chain began.
        alpha: probability with which the bound may be above the true mean; 0 or less gives None.

    Returns:
        The bound, in shares of the scale. None where one day or one user has all rows, because they
        say nothing about other days or users.
    """
    days, day_of_N = np.unique(days_N, return_inverse=True)
    if days.size < 2 or alpha <= 0:
        return None
    if users_N is None:
        values, owners, day_of_V = bounded_gains(gain_N, None, scale), None, day_of_N
    else:
        # V values: one for each day of each user. So they can be clustered both by user and by day.
        users, user_of_N = np.unique(users_N, return_inverse=True)
        keys_N = user_of_N * days.size + day_of_N
        values, present = bounded_gains(gain_N, keys_N, scale), np.unique(keys_N)
        owners, day_of_V = present // days.size, present % days.size
        if users.size < 2:
            return None
    # Both means are the same; only the standard errors differ with the clusters.
    mean, between_users, _ = mean_and_error(values, owners)
    _, between_days, _ = mean_and_error(values, day_of_V)
    critical = float(stdtrit(days.size - 1, 1 - alpha))
    return mean - critical * max(between_users, between_days)
