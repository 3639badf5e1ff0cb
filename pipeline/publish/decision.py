"""Decide what serves a domain after a night: its candidate, its live kernel, or what is above it.

A domain without a kernel of its own gets one when its chain is proved (chain.py) and no harm is
shown. Where one serves already, its successor need only show no harm. A kernel that serves and that
shows harm against what would serve without it is withdrawn, unless its successor is sound.

Harm is defined by the gate (gate.py): for a task, the whole interval of AUC, log-loss or
calibration is beyond its margin. The candidate is compared with the base, with what would serve
without it, with the kernel that serves now, and with what serves on the newest hours alone
(canary.py). Where no task is judged, nothing is promoted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from iak.pipeline.publish.chain import ChainAfterNight, needed, withdrawn
from iak.pipeline.stats.shrinkage import shrunk_means
from iak.schemas.chain import ChainState, ChainVerdict, Outcome
from iak.schemas.job import ChainSpec
from iak.schemas.verdict import Comparison, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainVerdicts:
    """The verdicts on one domain, all from the same gate rows of a night."""

    base: Verdict
    """The candidate against the base."""
    rivals: Mapping[str, Verdict] = field(default_factory=dict)
    """What would serve without it -> the candidate against that."""
    live: Verdict | None = None
    """The candidate against the domain's own kernel that serves; None where none does."""
    canary: Verdict | None = None
    """The candidate against what serves, on the newest hours; None where this is not asked for."""
    canary_rows: str = "the newest hours"
    """Which rows those are."""
    live_gauc: Mapping[str, Comparison] = field(default_factory=dict)
    """Task -> AUC within users of the candidate and the live kernel."""
    live_against_rival: Verdict | None = None
    """The kernel that serves against what would serve without it; None where none does."""
    shrunk_gain: float | None = None
    """As `shrunk_gains` returns it."""

    @property
    def is_live(self) -> bool:
        """Return whether a kernel of the domain's own serves."""
        return self.live is not None


class _Decision(NamedTuple):
    outcome: Outcome
    why: str


def decide(
    after: ChainAfterNight, verdicts: DomainVerdicts, *, fallback: str, spec: ChainSpec
) -> ChainVerdict:
    """Decide whether the night's candidate and the live kernel are to serve.

    Args:
        after: the chain after the night.
        verdicts: what its gate rows say.
        fallback: name of what serves the domain without a kernel of its own: `pooled`, `base`, or a
            parent's name.
        spec: alpha and its parts.
    """
    outcome, why = _decided(after, verdicts, spec)
    state = after.state
    if outcome == "fall_back" and state is not None:
        state = withdrawn(state)
    serves = {
        "promote": "the new kernel serves",
        "hold": "the live kernel goes on" if verdicts.is_live else f"{fallback} serves",
        "fall_back": f"{fallback} serves",
    }[outcome]
    enough = needed(spec)
    return ChainVerdict(
        outcome=outcome,
        sentence=f"{why}; {serves}",
        observation=after.observation,
        log_evidence=after.log_evidence,
        needed=enough if np.isfinite(enough) else None,
        at_once=after.first_gain_low,
        shrunk_gain=verdicts.shrunk_gain,
        state=state,
    )


def shrunk_gains(measured: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return each domain's gain after shrinkage towards the mean of its level.

    Args:
        measured: domain -> its candidate's gain over what would serve without it, in nats a row,
            and the standard error. A domain without a finite error is left out.
    """
    if not measured:
        return {}
    means, errors = (np.array(column) for column in zip(*measured.values(), strict=True))
    shrunk = shrunk_means(means, errors)
    return {n: float(s) for n, s in zip(measured, shrunk, strict=True) if np.isfinite(s)}


def _decided(after: ChainAfterNight, verdicts: DomainVerdicts, spec: ChainSpec) -> _Decision:
    """Return the outcome and its reason."""
    objection = _why_not_sound(verdicts)
    if not objection and (verdicts.is_live or _is_proved(after.state)):
        return _Decision("promote", _why_promoted(after, verdicts, spec))
    if verdicts.live_against_rival is not None and (harm := _harm(verdicts.live_against_rival)):
        return _Decision("fall_back", f"the live kernel harms its domain: {harm}")
    return _Decision("hold", objection or _why_not_proved(after, spec))


def _is_proved(state: ChainState | None) -> bool:
    return state is not None and state.proved_on is not None


def _why_not_sound(verdicts: DomainVerdicts) -> str:
    """Return why the candidate may not serve whatever its chain has shown; empty where it may."""
    base = verdicts.base
    if not any(task.judged for task in base.tasks):
        return base.reason
    compared = {"the base": base, **verdicts.rivals}
    if verdicts.live is not None:
        compared["the live kernel"] = verdicts.live
    for name, verdict in compared.items():
        if harm := _harm(verdict):
            return f"worse than {name}: {harm}"
    if verdicts.canary is not None and (harm := _harm(verdicts.canary)):
        return f"worse than what serves in {verdicts.canary_rows}: {harm}"
    if verdicts.shrunk_gain is not None and verdicts.shrunk_gain <= 0 and not verdicts.is_live:
        return f"no gain is expected: {verdicts.shrunk_gain:.5f} nats a row, shrunk"
    return ""


def _harm(verdict: Verdict) -> str:
    """Return the harm that a verdict shows; empty where it shows none.

    A verdict without tasks is of losses that are not finite.
    """
    if verdict.rows and not verdict.tasks:
        return verdict.reason
    return "; ".join(f"{t.task}: {t.reason}" for t in verdict.tasks if t.holds)


def _why_promoted(after: ChainAfterNight, verdicts: DomainVerdicts, spec: ChainSpec) -> str:
    """Return the reason for which the candidate is to serve."""
    state = after.state
    if verdicts.is_live:
        since = "" if state is None or not state.proved_on else f" (proved on {state.proved_on})"
        return f"no harm against the live kernel{since}"
    assert state is not None, "a chain without a state is not proved"
    if state.proved_by == "one night":
        night = state.proved_on
        bound = (
            "" if after.first_gain_low is None else f" is at least {after.first_gain_low:.2%} and"
        )
        return (
            f"the gain of its first night, {night},{bound} exceeds {spec.at_once_margin:.2%} of "
            "the base's loss"
        )
    return (
        f"evidence of {_nights(state.nights)} came to {after.log_evidence:.2f}; "
        f"{needed(spec):.2f} is enough"
    )


def _nights(number: int) -> str:
    return "1 night" if number == 1 else f"{number} nights"


def _why_not_proved(after: ChainAfterNight, spec: ChainSpec) -> str:
    """Return what the chain lacks."""
    state = after.state
    if state is None:
        return "no gate row has a label"
    if state.nights:
        return (
            f"evidence of {_nights(state.nights)} is {after.log_evidence:.2f}, "
            f"below {needed(spec):.2f}"
        )
    if after.first_gain_low is None:
        return "a first night of one day or one user proves nothing at once"
    return (
        f"the gain of its first night is at least {after.first_gain_low:.2%} of the base's loss, "
        f"not above {spec.at_once_margin:.2%}, and has to be seen again"
    )
