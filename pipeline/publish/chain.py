"""Add a night's gate rows to the evidence on a chain: the kernels of one domain over nights.

A chain is compared with what would serve its domain without it. There are two such kernels: the one
above it that serves when the night begins, and the one above it that was tuned tonight. Which of
them serves tomorrow is decided on tonight's rows. So the chain has to be better than both, and the
lower of the two gains is counted. Where one of the kernels does not exist, the base stands in for
it.

1. The first night fixes the scale. A test of its own may prove the chain in that night already.
2. Each later night adds one bet to the evidence (stats/evidence.py). Windows of nights overlap. The
   label of a row counts once, in the first night that has it.
3. A chain that was proved stays proved. With a new base it begins again.

Both tests together prove a chain that is no better with a probability of at most `alpha`. Nothing
here reads the clock: a repeated night gives the same result.

Shapes: n gate rows, T tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from iak.pipeline.stats.auc import Array, Bools, Floats, Ints
from iak.pipeline.stats.evidence import (
    Evidence,
    lower_bound_of_days,
    means_of_users,
    needed_log_e,
    night_observation,
)
from iak.schemas.chain import ChainState
from iak.schemas.domain import Domain
from iak.schemas.job import ChainSpec

_EPOCH = date(1970, 1, 1)
_NOT_FINITE = 1e30
"""Size that replaces a value that is not finite. The tanh of every such size is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRows:
    """The losses on a kernel's gate rows, and the differences to its rivals'."""

    tasks: Sequence[str]
    """Titles of the T tasks."""
    mask_nT: Bools
    """Whether a label is known."""
    day_n: Ints
    """Day of each row, in days since 1970-01-01."""
    base_loss_nT: Array
    """Loss of the base in nats, times the task's weight."""
    gain_nT: Mapping[str, Array]
    """Rival, which would serve without the chain -> nats by which the candidate's loss is lower."""
    users_n: Array | None = None
    """Key of each row's user; None where the log declares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainAfterNight:
    """A chain after a night."""

    state: ChainState | None
    """None where the chain could not begin: no gate row has a label."""
    observation: float | None = None
    """The observation that the night added to the evidence; None where it added none."""
    first_gain_low: float | None = None
    """Lower bound on the gain of the first night, as a share of the base's loss; None later."""

    @property
    def log_evidence(self) -> float:
        """Return the natural logarithm of the evidence."""
        return log_evidence(self.state) if self.state else 0.0


def advance(
    state: ChainState | None,
    rows: LossRows,
    *,
    night: date,
    domain: Domain,
    base_fingerprint: str,
    spec: ChainSpec,
) -> ChainAfterNight:
    """Return a chain after one more night. A night that was counted already changes nothing.

    Args:
        state: the chain before the night; None where it has none.
        rows: the candidate's gate rows.
        night: nominal date of the night.
        domain: the chain's.
        base_fingerprint: the base of the night; a chain of another base begins again.
        spec: alpha, its parts, and the bound on a night's observation.
    """
    if state is None or state.base_fingerprint != base_fingerprint:
        return _begin(rows, night, domain, base_fingerprint, spec)
    if _evidence(state).is_counted(night):
        return ChainAfterNight(state=state)
    return _count(state, rows, night, spec)


def first_alpha(spec: ChainSpec) -> float:
    """Return the part of alpha that the test of the first night may use."""
    return spec.alpha * spec.at_once


def needed(spec: ChainSpec) -> float:
    """Return the evidence that proves a chain, as a natural logarithm; infinite where none does."""
    # The errors of two tests add up at most, so the bets get what the first test leaves of alpha.
    return needed_log_e(spec.alpha - first_alpha(spec))


def log_evidence(state: ChainState) -> float:
    """Return the natural logarithm of a chain's evidence."""
    return _evidence(state).log_e


def withdrawn(state: ChainState) -> ChainState:
    """Return a chain whose kernel serves no longer: a later night has to prove it again.

    Its evidence stays. Beginning again would test the same domain twice, each time with `alpha`.
    """
    return state.model_copy(update={"proved_on": None, "proved_by": None})


def _begin(
    rows: LossRows, night: date, domain: Domain, base_fingerprint: str, spec: ChainSpec
) -> ChainAfterNight:
    """Return a chain after its first night; no chain where no gate row has a label."""
    labelled_n: Bools = np.any(rows.mask_nT, axis=1)
    if not labelled_n.any():
        return ChainAfterNight(state=None)
    users = _chosen(rows.users_n, labelled_n)
    # The scale is a mean over users, like the gains that are divided by it.
    loss_n = np.where(rows.mask_nT, rows.base_loss_nT, 0.0).sum(axis=1)[labelled_n]
    scale = float(means_of_users(_finite(loss_n), users).mean())
    if not scale > 0:
        return ChainAfterNight(state=None)
    bounds = [
        lower_bound_of_days(
            gain_n[labelled_n], rows.day_n[labelled_n], users, scale=scale, alpha=first_alpha(spec)
        )
        for gain_n in _gains(rows, rows.mask_nT).values()
    ]
    known = [bound for bound in bounds if bound is not None]
    # The chain must be better than every rival. So the lowest bound counts, and where a rival has
    # no bound, nothing is proved.
    bound = min(known) if known and len(known) == len(bounds) else None
    is_proved = bound is not None and bound > spec.at_once_margin
    evidence = Evidence(floor=spec.floor)
    state = ChainState(
        domain=list(domain.pairs),
        base_fingerprint=base_fingerprint,
        began=night,
        scale=scale,
        floor=spec.floor,
        log_wealth=evidence.log_wealth,
        nights=0,
        last_night=night,
        counted_to=_counted_to({}, rows),
        proved_on=night if is_proved else None,
        proved_by="one night" if is_proved else None,
    )
    return ChainAfterNight(state=state, first_gain_low=bound)


def _count(state: ChainState, rows: LossRows, night: date, spec: ChainSpec) -> ChainAfterNight:
    """Return a chain after a night that adds to its evidence."""
    # A label may ripen nights after its row, so each task has a last day of its own.
    days = [_day(state.counted_to.get(task)) for task in rows.tasks]
    new_nT = rows.mask_nT & (rows.day_n[:, None] > np.array(days))
    new_n: Bools = np.any(new_nT, axis=1)
    if not new_n.any():
        return ChainAfterNight(state=state.model_copy(update={"last_night": night}))
    users = _chosen(rows.users_n, new_n)
    observation = min(  # over the rivals: the chain has to be better than each of them
        night_observation(gain_n[new_n], users, scale=state.scale, floor=state.floor)
        for gain_n in _gains(rows, new_nT).values()
    )
    evidence = _evidence(state).add(night, observation)
    is_proved_now = state.proved_on is None and evidence.log_e >= needed(spec)
    proved = {"proved_on": night, "proved_by": "many nights"} if is_proved_now else {}
    after = state.model_copy(
        update={
            "log_wealth": evidence.log_wealth,
            "nights": evidence.nights,
            "last_night": night,
            "counted_to": _counted_to(state.counted_to, rows),
            **proved,
        }
    )
    return ChainAfterNight(state=after, observation=observation)


def _evidence(state: ChainState) -> Evidence:
    return Evidence(
        floor=state.floor,
        log_wealth=state.log_wealth,
        nights=state.nights,
        last_night=state.last_night,
    )


def _gains(rows: LossRows, counts_nT: Bools) -> dict[str, Floats]:
    """Return each row's gain over each rival, summed over the labels that count.

    A candidate's loss that is not a number counts as a very large one. Leaving such a night out
    would select nights by their result, and the test would no longer be valid.
    """
    return {
        name: np.where(counts_nT, _finite(gain_nT), 0.0).sum(axis=1)
        for name, gain_nT in rows.gain_nT.items()
    }


def _finite(values: Array) -> Floats:
    """Return values in float64, those that are not finite replaced; NaN counts as a loss."""
    finite: Floats = np.nan_to_num(
        np.asarray(values, np.float64), nan=-_NOT_FINITE, posinf=_NOT_FINITE, neginf=-_NOT_FINITE
    )
    return finite


def _chosen(users_n: Array | None, chosen_n: Bools) -> Array | None:
    """Return the users of some rows; None where rows carry none."""
    return None if users_n is None else users_n[chosen_n]


def _counted_to(before: Mapping[str, date], rows: LossRows) -> dict[str, date]:
    """Return the last day of each task whose labels have been used."""
    after = dict(before)
    for index, task in enumerate(rows.tasks):
        known_n = rows.mask_nT[:, index]
        if known_n.any():
            newest = _EPOCH + timedelta(days=int(rows.day_n[known_n].max()))
            after[task] = max(newest, after.get(task, newest))
    return after


def _day(day: date | None) -> float:
    """Return a date in days since 1970-01-01; minus infinity where there is no date."""
    return -math.inf if day is None else (day - _EPOCH).days
