"""Choose which domains train tonight, with a reason for each.

A domain trains where enough of its rows are new, where its kernel is old, or where its inputs have
moved. Domains are ranked by their expected worth: the gain that earlier nights found, in nats a
row, times the rows that a day brings. A budget is spent in this order.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import mean

from iak.pipeline.data.partition_days import Pairs
from iak.pipeline.nightly.history import EarlierTuning, History
from iak.pipeline.nightly.partitions import held_partitions, partition_holding
from iak.schemas.domain import Domain
from iak.schemas.night import Choice, Decision, Level, PartitionDay
from iak.schemas.nightly import BudgetSpec, ChoiceSpec

LEVELS: tuple[Level, ...] = ("pooled", "parent", "domain")
_PRIOR_NIGHTS = 2
"""Weight of the mean gain of all domains, as a number of a domain's own nights."""
_FIRST_GAIN = 1.0
"""Gain where no night has found any: domains then rank by their rows alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A domain of the window."""

    domain: Domain
    level: Level
    rows: Mapping[tuple[Pairs, date], int]
    """Rows of each partition's day of the window."""
    floor: int
    """Tuning rows that it needs for a kernel of its own."""
    live_since: date | None
    """Last day of the data that its live kernel was tuned on; None where none serves."""
    drift: float | None = None
    """Largest population stability index of its inputs since its last tuning."""

    @property
    def window_rows(self) -> int:
        """Return its rows of the window."""
        return sum(self.rows.values())

    @property
    def rows_a_day(self) -> float:
        """Return its mean rows of a day that has any."""
        return self.window_rows / max(len({day for _, day in self.rows}), 1)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a decision is based on."""

    new: int
    """Rows since the last tuning that did not fail."""
    rows: int
    """Rows of the window that are fit to be read."""
    age: int | None
    """Days between the data of the live kernel and the night; None where none serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The inputs of a choice besides the domains and their history."""

    night: date
    base: str
    """Fingerprint of the base."""
    choice: ChoiceSpec
    budget: BudgetSpec
    tuned_share: float
    """Share of a window's rows that are tuned on."""


def choose(
    candidates: Sequence[Candidate],
    days: Sequence[PartitionDay],
    history: History,
    request: Request,
) -> list[Decision]:
    """Decide for every domain whether it trains.

    Args:
        candidates: the domains of the window, of every level.
        days: what the night sees of every partition's day.
        history: earlier nights.
        request: settings, the night and its base.

    Returns:
        The pooled kernel first, then parents, then domains; those of most worth first.
    """
    tunings = {c.domain: list(history.tunings(c.domain, request.base)) for c in candidates}
    usual = _usual_gain(tunings.values())
    decided = [
        _decide(candidate, tunings[candidate.domain], days, request, usual)
        for candidate in candidates
    ]
    order = {level: depth for depth, level in enumerate(LEVELS)}
    decided.sort(key=lambda d: (order[d.level], -(d.worth or 0.0), d.name))
    return _with_pooled(_within_budget(decided, history, request))


def _decide(
    candidate: Candidate,
    tunings: Sequence[EarlierTuning],
    days: Sequence[PartitionDay],
    request: Request,
    usual_gain: float,
) -> Decision:
    """Decide for one domain, without a budget."""
    held = held_partitions(days)
    usable = {key: rows for key, rows in candidate.rows.items() if key[0] not in held}
    content = {(tuple(day.partition), day.day): day.content for day in days}
    last = next((t for t in tunings if t.outcome.outcome != "failed"), None)
    new = sum(r for key, r in usable.items() if not last or last.read.get(key) != content[key])
    age = (request.night - candidate.live_since).days if candidate.live_since else None
    choice, reason = _choice(
        candidate, tunings, held, request, Facts(new, sum(usable.values()), age)
    )
    return Decision(
        domain=list(candidate.domain.pairs),
        level=candidate.level,
        choice=choice,
        reason=reason,
        new_rows=new,
        window_rows=candidate.window_rows,
        age_days=age if age is None else max(age, 0),
        drift=candidate.drift,
        worth=_gain(tunings, usual_gain) * candidate.rows_a_day,
    )


def _choice(
    candidate: Candidate,
    tunings: Sequence[EarlierTuning],
    held: Mapping[Pairs, str],
    request: Request,
    facts: Facts,
) -> tuple[Choice, str]:
    """Return whether a domain trains, and the sentence that says why."""
    settings, name = request.choice, candidate.domain.name
    if reason := partition_holding(candidate.domain.pairs, held):
        return "hold", reason
    if held and not facts.rows:
        return "hold", "every partition that it has rows of is held"
    if settings.domains and candidate.level == "domain" and name not in settings.domains:
        return "wait", "choice.domains does not name it"
    if candidate.live_since is not None and candidate.live_since > request.night:
        return "wait", f"its live kernel was tuned on later days, until {candidate.live_since}"
    tuned = int(facts.rows * request.tuned_share)
    if tuned < candidate.floor:
        return "wait", f"about {tuned:,} tuning rows, fewer than its floor of {candidate.floor:,}"
    if not tunings:
        return "train", f"no night has tuned it on this base: {facts.rows:,} rows in the window"
    last = tunings[0]
    news = f"{facts.new:,} new rows since {last.night}"
    if last.outcome.outcome == "failed":
        return "train", f"its tuning failed on {last.night}; {facts.rows:,} rows in the window"
    if facts.new >= settings.min_new_rows:
        again = ", when the gate held it" if last.outcome.outcome == "held" else ""
        return "train", f"{news}{again}"
    if facts.age is not None and facts.age >= settings.max_age_days:
        return "train", f"its kernel is {facts.age} days old; {news}"
    if candidate.drift is not None and candidate.drift >= settings.drift:
        return "train", f"its inputs moved by {candidate.drift:.2f}; {news}"
    return "wait", f"{news}, fewer than {settings.min_new_rows:,}"


def _usual_gain(tunings: Collection[Sequence[EarlierTuning]]) -> float:
    """Return the mean gain over all domains that earlier nights judged."""
    gains = [gain for of_domain in tunings for gain in _gains(of_domain)]
    return mean(gains) if gains else _FIRST_GAIN


def _gain(tunings: Sequence[EarlierTuning], usual: float) -> float:
    """Return a domain's expected gain: the mean of its nights, drawn towards the usual one."""
    gains = _gains(tunings)
    return (sum(gains) + _PRIOR_NIGHTS * usual) / (len(gains) + _PRIOR_NIGHTS)


def _gains(tunings: Sequence[EarlierTuning]) -> list[float]:
    verdicts = [t.outcome.verdict for t in tunings]
    return [v.gain for v in verdicts if v is not None and v.gain is not None]


def _within_budget(
    decisions: Sequence[Decision], history: History, request: Request
) -> list[Decision]:
    """Let the domains wait that a budget of rows or minutes leaves out.

    The first domain always trains: a budget below its rows would otherwise stop every night.
    """
    limits = _limits(history, request)
    kept: list[Decision] = []
    spent = 0.0
    for decision in decisions:
        rows = decision.window_rows * request.tuned_share
        if decision.level != "domain" or decision.choice != "train":
            kept.append(decision)
            continue
        over = next((text for most, text in limits if spent and spent + rows > most), None)
        if over is None:
            spent += rows
            kept.append(decision)
        else:
            reason = f"{over}; {decision.reason}"
            kept.append(decision.model_copy(update={"choice": "wait", "reason": reason}))
    return kept


def _limits(history: History, request: Request) -> list[tuple[float, str]]:
    """Return the budget in tuning rows, each bound with its words."""
    limits: list[tuple[float, str]] = []
    budget, rate = request.budget, history.rows_a_second
    if budget.rows is not None:
        limits.append((budget.rows, f"not within the budget of {budget.rows:,} rows"))
    if budget.minutes is not None and rate is not None:
        rows = budget.minutes * 60 * rate
        words = f"not within {budget.minutes:g} minutes, about {rows:,.0f} rows at {rate:,.0f}/s"
        limits.append((rows, words))
    return limits


def _with_pooled(decisions: Sequence[Decision]) -> list[Decision]:
    """Let the pooled kernel train wherever another one does: a kernel may start from it."""
    if not any(d.choice == "train" for d in decisions):
        return list(decisions)
    reason = "other kernels may start from it"
    return [
        d.model_copy(update={"choice": "train", "reason": reason})
        if d.level == "pooled" and d.choice == "wait"
        else d
        for d in decisions
    ]
