"""Count a night's gate rows as evidence on a chain: one domain's kernels over nights. No clock.

A chain is compared with what would serve its domain without it. There are two such kernels: the one
above it that serves when the night begins, and the one above it that was tuned tonight. Which of
them serves tomorrow is decided on tonight's rows, so the chain has to be better than both, and the
lower of the two gains is counted. The base stands for a kernel that does not exist.

1. The first night fixes the scale, and may prove the chain at once by a test of its own.
2. Each later night adds one bet to the evidence (stats/evidence.py). Windows of nights overlap; a
   row's label counts once, in the first night that has it.
3. A chain that was proved stays so. With a new base, all begins again.

Both tests together prove a chain that is no better with a probability of at most `alpha`.

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
_LARGEST = 1e30
"""Stands for a loss that is not finite; tanh makes it 1, whichever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRows:
    """A kernel's gate rows as losses that tuning lowers."""

    tasks: Sequence[str]
    """Titles of the T tasks."""
    mask_nT: Bools
    """Whether a label is known."""
    day_n: Ints
    """Day of each row, in days since 1970-01-01."""
    base_loss_nT: Array
    """Under the base, with the tasks' weights."""
    gain_nT: Mapping[str, Array]
    """What would serve without the chain -> nats by which the candidate's loss is lower."""
    users_n: Array | None = None
    """Key of each row's user; None where the log declares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A chain after a night."""

    state: ChainState | None
    """None where the chain could not begin: no gate row has a label."""
    observation: float | None = None
    """The number that the night added to the evidence; None where it added none."""
    at_once: float | None = None
    """Lower bound of the first night's gain, as a share of the base's loss."""

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
) -> Step:
    """Return a chain after one more night. A night that was counted already changes nothing.

    Args:
        state: the chain before the night; None where it has none.
        rows: the candidate's gate rows.
        night: nominal date of the night.
        domain: the chain's.
        base_fingerprint: the base of the night; a chain of another base begins again.
        spec: alpha, its parts, and the bound of a night.
    """
    if state is None or state.base_fingerprint != base_fingerprint:
        return _begin(rows, night, domain, base_fingerprint, spec)
    if _evidence(state).is_counted(night):
        return Step(state=state)
    return _count(state, rows, night, spec)


def first_alpha(spec: ChainSpec) -> float:
    """Return the part of alpha that the first night's test has."""
    return spec.alpha * spec.at_once


def needed(spec: ChainSpec) -> float:
    """Return the evidence that proves a chain, as a natural logarithm; infinite where none does."""
    return needed_log_e(spec.alpha - first_alpha(spec))


def log_evidence(state: ChainState) -> float:
    """Return the natural logarithm of a chain's evidence."""
    return _evidence(state).log_e


def withdrawn(state: ChainState) -> ChainState:
    """Return a chain whose kernel serves no longer: a later night has to prove it again.

    Its evidence stays. A fresh start would be a second chance to be wrong.
    """
    return state.model_copy(update={"proved_on": None, "proved_by": None})


def _begin(
    rows: LossRows, night: date, domain: Domain, base_fingerprint: str, spec: ChainSpec
) -> Step:
    """Return the first night of a chain."""
    labelled_n: Bools = np.any(rows.mask_nT, axis=1)
    if not labelled_n.any():
        return Step(state=None)
    users = _of(rows.users_n, labelled_n)
    loss_n = np.where(rows.mask_nT, rows.base_loss_nT, 0.0).sum(axis=1)[labelled_n]
    scale = float(means_of_users(_finite(loss_n), users).mean())
    if not scale > 0:
        return Step(state=None)
    bounds = [
        lower_bound_of_days(
            gain_n[labelled_n], rows.day_n[labelled_n], users, scale=scale, alpha=first_alpha(spec)
        )
        for gain_n in _gains(rows, rows.mask_nT).values()
    ]
    known = [bound for bound in bounds if bound is not None]
    at_once = min(known) if known and len(known) == len(bounds) else None
    is_proved = at_once is not None and at_once > spec.at_once_margin
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
    return Step(state=state, at_once=at_once)


def _count(state: ChainState, rows: LossRows, night: date, spec: ChainSpec) -> Step:
    """Return a chain after a night that adds to its evidence."""
    days = [_day(state.counted_to.get(task)) for task in rows.tasks]
    new_nT = rows.mask_nT & (rows.day_n[:, None] > np.array(days))
    new_n: Bools = np.any(new_nT, axis=1)
    if not new_n.any():
        return Step(state=state.model_copy(update={"last_night": night}))
    users = _of(rows.users_n, new_n)
    observation = min(
        night_observation(gain_n[new_n], users, scale=state.scale, floor=state.floor)
        for gain_n in _gains(rows, new_nT).values()
    )
    evidence = _evidence(state).add(night, observation)
    is_new = state.proved_on is None and evidence.log_e >= needed(spec)
    proved = {"proved_on": night, "proved_by": "many nights"} if is_new else {}
    after = state.model_copy(
        update={
            "log_wealth": evidence.log_wealth,
            "nights": evidence.nights,
            "last_night": night,
            "counted_to": _counted_to(state.counted_to, rows),
            **proved,
        }
    )
    return Step(state=after, observation=observation)


def _evidence(state: ChainState) -> Evidence:
    return Evidence(
        floor=state.floor,
        log_wealth=state.log_wealth,
        nights=state.nights,
        last_night=state.last_night,
    )


def _gains(rows: LossRows, counts_nT: Bools) -> dict[str, Floats]:
    """Return each row's gain over each rival, summed over the tasks that count.

    A loss of the candidate that is not a number counts as the largest loss: to leave the night out
    would be to choose nights by their result.
    """
    return {
        name: np.where(counts_nT, _finite(gain_nT), 0.0).sum(axis=1)
        for name, gain_nT in rows.gain_nT.items()
    }


def _finite(values: Array) -> Floats:
    finite: Floats = np.nan_to_num(
        np.asarray(values, np.float64), nan=-_LARGEST, posinf=_LARGEST, neginf=-_LARGEST
    )
    return finite


def _of(users_n: Array | None, chosen_n: Bools) -> Array | None:
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
    """Return a date in days since 1970-01-01; of none, a number before every day."""
    return -math.inf if day is None else (day - _EPOCH).days
