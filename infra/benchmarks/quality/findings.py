"""Make the benchmark's tables from finished cells: all methods, IAK against each rival, targets.

Two kinds of uncertainty are shown apart. The interval of a line is over rows, with those of one
user dependent, and is a mean over seeds. The spread is from the lowest to the highest seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from iak.schemas.record import BenchmarkLine, Target
from infra.benchmarks.quality.cells import Cell, Line
from infra.benchmarks.quality.league import IAK, League
from infra.benchmarks.quality.logs import LARGE_TEST, PLANTED, SeparatedLog
from infra.benchmarks.quality.registry import METHODS

MARGIN = 20e-4
"""Difference in AUC up to which a loss counts as none. An interval whose half is wider than this
decides nothing."""
WHOLE_TRIALS, WHOLE_SEEDS = 8, 5
"""Trials and seeds below which a result is only a first look."""
TOO_WIDE = ", too wide to count"
CONTINUED, LORA, CEILING = "continued", "lora", "ceiling"
PAST = "iak_past"
PRIZED = {
    IAK: "IAK",
    "iak_counts": "IAK with out-of-fold counts",
    PAST: "IAK with counts of earlier days",
}
"""Forms of IAK whose wins are counted, each by itself, and their names in the targets."""
_WINS = {CONTINUED: 4, LORA: 3}
"""Logs on which a form of IAK should beat a rival."""
_WINS_BY_DAY = 1
"""The same for counts of earlier days, which few logs allow."""
OF_CEILING = 0.85
"""Share of the ceiling's share that IAK should reach on a planted log."""
ALL, POOLED = "all", "pooled"


class LeagueLine(BenchmarkLine):
    """A method on one task of a log, beside the base: the mean of its seeds."""

    table: Literal["league"] = "league"
    log: str
    method: str
    what: str
    """The method in words."""
    task: str
    seeds: int
    auc: float | None
    delta_auc: float | None
    """AUC minus that of the base. None, as in the fields below, where a seed has no value."""
    low: float | None
    """Lower end of the 95 % interval of `delta_auc`, a mean over seeds."""
    high: float | None
    lowest_seed: float | None
    """`delta_auc` of the seed with the lowest one."""
    highest_seed: float | None
    delta_gauc: float | None
    delta_log_loss: float | None
    """Log-loss divided by that of the base, minus 1."""
    ne: float | None
    calibration: float | None
    harmed: int
    """Domains, of all seeds, whose AUC is lower than the base's beyond its interval."""
    domains: int
    """Domains, of all seeds, that have an interval."""
    parameters: int
    """Parameters that the method trains, in one copy."""
    copies: int
    cpu_s: float
    """CPU seconds of a fit, a mean over seeds."""
    at_cap: int
    """Seeds with a part that was still improving at its last epoch."""
    of_continued: float | None = None
    """CPU seconds over those of continued training; None where that is not finished."""
    is_first: bool = False
    """Whether the task is the first of its log."""
    reachable: float | None = None
    """On a planted log, the share of the gain from the base to the true probabilities that it
    reaches in its first task, a mean over seeds."""
    by_day: Annotated[bool, Field(exclude_if=lambda by_day: not by_day)] = False
    """Whether it reads counts of earlier days alone, so that its gain may be one of freshness."""


class PairLine(BenchmarkLine):
    """A form of IAK minus a rival, on one task of a log: the mean of its seeds."""

    table: Literal["pairs"] = "pairs"
    log: str
    method: str
    rival: str
    what: str
    """The rival in words."""
    task: str
    seeds: int
    delta_auc: float | None
    """AUC of the method minus that of the rival."""
    low: float | None
    """Lower end of the 95 % interval of `delta_auc`, a mean over seeds."""
    high: float | None
    lowest_seed: float | None
    """`delta_auc` of the seed with the lowest one."""
    highest_seed: float | None
    verdict: str
    is_first: bool = False
    """Whether the task is the first of its log."""
    by_day: Annotated[bool, Field(exclude_if=lambda by_day: not by_day)] = False
    """Whether the method reads counts of earlier days alone."""


L = TypeVar("L", LeagueLine, PairLine)


def league_lines(league: League) -> list[LeagueLine]:
    """Return a line for each method and task of a log that has finished cells."""
    lines = []
    for name in league.methods:
        cells = [league.finished(name, seed) for seed in league.spec.seeds]
        finished = [cell for cell in cells if cell is not None]
        tasks = dict.fromkeys(line.task for cell in finished for line in cell.lines)
        lines += [_league_line(league, name, task, finished) for task in tasks]
    return _with_first(_with_cost(lines))


def pair_lines(league: League) -> list[PairLine]:
    """Return a line for each pair and task: a form of IAK minus a rival, with the verdict."""
    lines = []
    for name, rival in league.pairs:
        cells = [league.finished_pair(name, rival, seed) for seed in league.spec.seeds]
        finished = [cell for cell in cells if cell is not None]
        for task in dict.fromkeys(line.task for cell in finished for line in cell.lines):
            difference = mean_difference(lines_at(finished, task, ALL))
            shown = verdict(difference.delta_auc, difference.low, difference.high)
            lines.append(
                PairLine(
                    log=league.log.name,
                    method=name,
                    rival=rival,
                    what=METHODS[rival].what,
                    task=task,
                    seeds=len(finished),
                    delta_auc=difference.delta_auc,
                    low=difference.low,
                    high=difference.high,
                    lowest_seed=difference.lowest_seed,
                    highest_seed=difference.highest_seed,
                    verdict=shown,
                    by_day=METHODS[name].needs_times,
                )
            )
    return _with_first(lines)


def verdict(delta: float | None, low: float | None, high: float | None) -> str:
    """Return the verdict of an interval: better, worse, not inferior, open, or cannot tell.

    Args:
        delta: AUC of the method minus that of the rival; None where it has no interval.
        low: lower end of the 95 % interval.
        high: upper end.
    """
    if delta is None or low is None or high is None:
        return "cannot tell"
    # A wide interval counts for neither side, but a reader sees on which side of zero it lies.
    wide = TOO_WIDE if (high - low) / 2 > MARGIN else ""
    if low > 0:
        return f"better{wide}"
    if high < 0:
        return f"worse{wide}"
    if wide:
        return "cannot tell"
    return "not inferior" if low > -MARGIN else "open"


def harmed(lines: Sequence[Line]) -> tuple[int, int]:
    """Return how many domains have a lower AUC beyond their interval, and how many have one."""
    own = [line for line in lines if line.domain not in (ALL, POOLED) and line.high is not None]
    return sum(line.high is not None and line.high < 0 for line in own), len(own)


def targets(league: Sequence[LeagueLine], pairs: Sequence[PairLine]) -> list[Target]:
    """Return the targets: wins against continued training and LoRA, and no rival stopped too early.

    Only the first task of a log counts, and only where its interval decides. A rival that is
    stopped while it still improves would make a false win. A kernel that is stopped so makes none.

    Args:
        league: lines of all logs.
        pairs: lines of all logs.
    """
    capped = [
        line for line in league if line.is_first and line.at_cap and not line.method.startswith(IAK)
    ]
    made = []
    forms = [n for n in PRIZED if n == IAK or any(line.method == n for line in pairs)]
    for form, rival in product(forms, _WINS):
        shown = {
            line.log: line.verdict
            for line in pairs
            if line.is_first and (line.method, line.rival) == (form, rival)
        }
        if LARGE_TEST in shown:
            shown.pop(PLANTED, None)  # one log, of which the larger test decides
        wanted = _WINS_BY_DAY if form == PAST else _WINS[rival]
        better = [log for log, verdict_ in shown.items() if verdict_ == "better"]
        lost = [log for log, verdict_ in shown.items() if verdict_ in ("worse", "open")]
        subject, what = PRIZED[form], METHODS[rival].what
        words = ", ".join(f"{log} {verdict_}" for log, verdict_ in shown.items()) or "no log yet"
        made += [
            _target(f"logs on which {subject} beats {what}", f">= {wanted}", len(better), words),
            _target(f"logs that can tell, and {subject} may lose to {what}", "0", len(lost), words),
        ]
    names = ", ".join(f"{line.log} {line.method}" for line in capped)
    made += _ceiling_targets(league)
    made.append(_target("rivals with a fit at its cap", "0", len(capped), names))
    return made


def _ceiling_targets(league: Sequence[LeagueLine]) -> list[Target]:
    """Return a target for each form of IAK on planted logs: how near it comes to the ceiling.

    Both are shares of the gain that is reachable. None where a log's ceiling was not measured.

    Args:
        league: lines of all logs.
    """
    shares = {
        (line.log, line.method): line.reachable
        for line in league
        if line.is_first and line.reachable is not None
    }
    made = []
    for (log, method), share in shares.items():
        ceiling = shares.get((log, CEILING))
        if method in PRIZED and ceiling:
            made.append(
                Target(
                    name=f"{log}: {PRIZED[method]}'s share of what its ceiling reaches",
                    wanted=f">= {OF_CEILING:g}",
                    measured=round(share / ceiling, 4),
                    is_met=share / ceiling >= OF_CEILING,
                    note=f"{share:.3f} of the reachable gain; the ceiling {ceiling:.3f}",
                )
            )
    return made


def notes(leagues: Sequence[League], finished: Sequence[LeagueLine]) -> list[str]:
    """Return notes: the size of the search, the splits of each log, and cells that are missing.

    Args:
        leagues: the cells of each log.
        finished: the league's lines of all logs.
    """
    spec = leagues[0].spec
    lines = []
    if spec.trials < WHOLE_TRIALS or len(spec.seeds) < WHOLE_SEEDS:
        lines.append(
            f"A first look: {spec.trials} trials and {len(spec.seeds)} seeds are far below the "
            f"{WHOLE_TRIALS} and {WHOLE_SEEDS} that a claim needs, and one seed shows no spread."
        )
    lines += [
        f"{spec.trials} settings of every method were tried on validation rows, the shipped ones "
        f"first, on seed {spec.seeds[0]}. The best was measured on test rows with "
        f"{len(spec.seeds)} seed(s), each with a base of its own. A method without settings has "
        "none to try, and IAK's ablations take IAK's.",
        "Differences are to the base of the same seed, a mean over domains weighted by rows. "
        "The interval is over rows, those of one user dependent, where the log names a user.",
        f"A difference whose half interval is above {MARGIN:g} counts for neither side.",
        "A kernel's rate falls to zero over its epochs, so that its last epoch is often its best. "
        "It is counted as at its cap all the same, and a night at its cap is not repeated.",
        "Counts of earlier days: a row reads labels of days before its own. A test row reads what "
        "was known at the end of the window, so that the second test day does not read the labels "
        "of the first.",
    ]
    lines += [size_note(league.log) for league in leagues]
    lines += _reachable_notes(finished)
    there = {(line.log, line.method): line.seeds for line in finished}
    missing = [
        f"{league.log.name} {name} ({count} of {len(spec.seeds)} seeds)"
        for league in leagues
        for name in league.methods
        if (count := there.get((league.log.name, name), 0)) < len(spec.seeds)
    ]
    return [*lines, *([f"Not finished: {', '.join(missing)}."] if missing else [])]


def size_note(log: SeparatedLog) -> str:
    """Return a note on a log: how its test rows are separated, and the rows of each split."""
    order = "every test row is later" if log.is_dated else "the log's own slices, no date"
    sizes = ", ".join(f"{split} {count:,}" for split, count in log.rows.items())
    return f"{log.name}: {order}; rows: {sizes}."


def _reachable_notes(finished: Sequence[LeagueLine]) -> list[str]:
    """Return a note for each planted log: the share of the reachable gain of every method."""
    shares: dict[str, list[str]] = {}
    for line in finished:
        if line.is_first and line.reachable is not None and line.method != "base":
            shares.setdefault(line.log, []).append(f"{line.what} {line.reachable:.3f}")
    return [
        f"{log}: share of the gain from the base to the true probabilities, by expected log-loss "
        f"on test rows: {'; '.join(words)}."
        for log, words in shares.items()
    ]


def _target(name: str, wanted: str, measured: int, note: str) -> Target:
    least = int(wanted.removeprefix(">= "))
    is_met = measured >= least if wanted.startswith(">=") else measured <= least
    return Target(name=name, wanted=wanted, measured=measured, is_met=is_met, note=note)


def _league_line(league: League, name: str, task: str, cells: Sequence[Cell]) -> LeagueLine:
    lines = lines_at(cells, task, ALL)
    difference = mean_difference(lines)
    domains = [harmed([line for line in cell.lines if line.task == task]) for cell in cells]
    costs = [cell.cost for cell in cells if cell.cost is not None]
    return LeagueLine(
        log=league.log.name,
        method=name,
        what=METHODS[name].what,
        task=task,
        seeds=len(cells),
        auc=mean_of([line.auc for line in lines]),
        delta_auc=difference.delta_auc,
        low=difference.low,
        high=difference.high,
        lowest_seed=difference.lowest_seed,
        highest_seed=difference.highest_seed,
        delta_gauc=mean_of([line.delta_gauc for line in lines_at(cells, task, POOLED)]),
        delta_log_loss=mean_of([line.delta_log_loss for line in lines]),
        ne=mean_of([line.ne for line in lines]),
        calibration=mean_of([line.calibration for line in lines]),
        harmed=sum(hurt for hurt, _ in domains),
        domains=sum(count for _, count in domains),
        parameters=costs[0].parameters,
        copies=costs[0].kernels,
        cpu_s=fmean(cost.cpu_s for cost in costs),
        at_cap=sum(bool(cell.at_cap) for cell in cells),
        reachable=mean_of([cell.reachable for cell in cells]),
        by_day=METHODS[name].needs_times,
    )


def lines_at(cells: Sequence[Cell], task: str, domain: str) -> list[Line]:
    """Return the line of every cell on one task in one domain."""
    return [
        line for cell in cells for line in cell.lines if (line.task, line.domain) == (task, domain)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference in AUC over seeds. A field is None where it has no value."""

    delta_auc: float | None
    low: float | None
    high: float | None
    lowest_seed: float | None
    highest_seed: float | None


def mean_difference(lines: Sequence[Line]) -> Difference:
    """Return the mean difference and interval over seeds, and the lowest and highest seed."""
    deltas = [line.delta_auc for line in lines if line.delta_auc is not None]
    return Difference(
        delta_auc=mean_of([line.delta_auc for line in lines]),
        low=mean_of([line.low for line in lines]),
        high=mean_of([line.high for line in lines]),
        lowest_seed=min(deltas, default=None),
        highest_seed=max(deltas, default=None),
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _with_cost(lines: Sequence[LeagueLine]) -> list[LeagueLine]:
    """Return the lines with each method's CPU seconds over continued training's."""
    continued = next((line.cpu_s for line in lines if line.method == CONTINUED), None)
    if not continued:
        return [*lines]
    return [line.model_copy(update={"of_continued": line.cpu_s / continued}) for line in lines]


def _with_first(lines: Sequence[L]) -> list[L]:
    """Return the lines of a log, each saying whether its task is the first of the log."""
    return [line.model_copy(update={"is_first": line.task == lines[0].task}) for line in lines]
