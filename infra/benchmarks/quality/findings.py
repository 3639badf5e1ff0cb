"""Make the benchmark's tables from finished cells: all methods, IAK against each rival, targets.

Two kinds of uncertainty are shown apart. The interval of a line is over rows, with those of one
user dependent, and is a mean over seeds. The spread is from the lowest to the highest seed.
"""

from collections.abc import Sequence
from statistics import fmean

from iak.schemas.base import JsonObject
from iak.schemas.record import Target
from infra.benchmarks.quality.cells import Cell, Line
from infra.benchmarks.quality.league import IAK, League
from infra.benchmarks.quality.registry import METHODS

MARGIN = 20e-4
"""Difference in AUC up to which a loss counts as none. An interval whose half is wider than this
decides nothing."""
WHOLE_TRIALS, WHOLE_SEEDS = 8, 5
"""Trials and seeds below which a result is only a first look."""
TOO_WIDE = ", too wide to count"
CONTINUED, LORA = "continued", "lora"
ALL, POOLED = "all", "pooled"


def league_rows(league: League) -> list[JsonObject]:
    """Return a row for each method and task of a log that has finished cells."""
    rows = []
    for name in league.spec.methods:
        cells = [league.finished(name, seed) for seed in league.spec.seeds]
        finished = [cell for cell in cells if cell is not None]
        tasks = dict.fromkeys(line.task for cell in finished for line in cell.lines)
        rows += [_league_row(league, name, task, finished) for task in tasks]
    return _with_cost(rows)


def pair_rows(league: League) -> list[JsonObject]:
    """Return a row for each pair and task: a form of IAK minus a rival, with the verdict."""
    rows = []
    for name, rival in league.pairs:
        cells = [league.finished_pair(name, rival, seed) for seed in league.spec.seeds]
        finished = [cell for cell in cells if cell is not None]
        for task in dict.fromkeys(line.task for cell in finished for line in cell.lines):
            facts = _delta(_lines(finished, task, ALL))
            rows.append(
                {
                    "table": "pairs",
                    "log": league.log.window.name,
                    "method": name,
                    "rival": rival,
                    "what": METHODS[rival].what,
                    "task": task,
                    "seeds": len(finished),
                    **facts,
                    "verdict": verdict(facts["delta_auc"], facts["low"], facts["high"]),
                }
            )
    return rows


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


def targets(rows: Sequence[JsonObject]) -> list[Target]:
    """Return the targets: wins against continued training and LoRA, and no rival stopped too early.

    Only the first task of a log counts, and only where its interval decides. A rival that is
    stopped while it still improves would make a false win. A kernel that is stopped so makes none.
    """
    pairs = [
        row for row in rows if row["table"] == "pairs" and row["is_first"] and row["method"] == IAK
    ]
    capped = [
        row
        for row in rows
        if row["table"] == "league" and row["is_first"] and row["at_cap"]
        if not row["method"].startswith(IAK)
    ]
    made = []
    for rival, wanted in ((CONTINUED, 4), (LORA, 3)):
        shown = {row["log"]: row["verdict"] for row in pairs if row["rival"] == rival}
        better = [log for log, verdict_ in shown.items() if verdict_ == "better"]
        lost = [log for log, verdict_ in shown.items() if verdict_ in ("worse", "open")]
        what = METHODS[rival].what
        words = ", ".join(f"{log} {verdict_}" for log, verdict_ in shown.items()) or "no log yet"
        made += [
            _target(f"logs on which IAK beats {what}", f">= {wanted}", len(better), words),
            _target(f"logs that can tell, and IAK may lose to {what}", "0", len(lost), words),
        ]
    names = ", ".join(f"{row['log']} {row['method']}" for row in capped)
    made.append(_target("rivals with a fit at its cap", "0", len(capped), names))
    return made


def notes(leagues: Sequence[League], rows: Sequence[JsonObject]) -> list[str]:
    """Return notes: the size of the search, the splits of each log, and cells that are missing."""
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
        "It is counted as at its cap all the same: more epochs may help it.",
    ]
    for league in leagues:
        order = (
            "every test row is later" if league.log.is_dated else "the log's own slices, no date"
        )
        sizes = ", ".join(f"{split} {count:,}" for split, count in league.log.rows.items())
        lines.append(f"{league.log.window.name}: {order}; rows: {sizes}.")
    there = {(row["log"], row["method"]): row["seeds"] for row in rows if row["table"] == "league"}
    missing = [
        f"{league.log.window.name} {name} ({count} of {len(spec.seeds)} seeds)"
        for league in leagues
        for name in spec.methods
        if (count := there.get((league.log.window.name, name), 0)) < len(spec.seeds)
    ]
    return [*lines, *([f"Not finished: {', '.join(missing)}."] if missing else [])]


def with_first(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the rows, each saying whether its task is the first of its log."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["log"], row["task"])
    return [row | {"is_first": row["task"] == first[row["log"]]} for row in rows]


def _target(name: str, wanted: str, measured: int, note: str) -> Target:
    least = int(wanted.removeprefix(">= "))
    is_met = measured >= least if wanted.startswith(">=") else measured <= least
    return Target(name=name, wanted=wanted, measured=measured, is_met=is_met, note=note)


def _league_row(league: League, name: str, task: str, cells: Sequence[Cell]) -> JsonObject:
    lines = _lines(cells, task, ALL)
    domains = [harmed([line for line in cell.lines if line.task == task]) for cell in cells]
    costs = [cell.cost for cell in cells if cell.cost is not None]
    return {
        "table": "league",
        "log": league.log.window.name,
        "method": name,
        "what": METHODS[name].what,
        "task": task,
        "seeds": len(cells),
        "auc": _mean([line.auc for line in lines]),
        **_delta(lines),
        "delta_gauc": _mean([line.delta_gauc for line in _lines(cells, task, POOLED)]),
        "delta_log_loss": _mean([line.delta_log_loss for line in lines]),
        "ne": _mean([line.ne for line in lines]),
        "calibration": _mean([line.calibration for line in lines]),
        "harmed": sum(hurt for hurt, _ in domains),
        "domains": sum(count for _, count in domains),
        "parameters": costs[0].parameters,
        "copies": costs[0].kernels,
        "cpu_s": fmean(cost.cpu_s for cost in costs),
        "at_cap": sum(bool(cell.at_cap) for cell in cells),
    }


def _lines(cells: Sequence[Cell], task: str, domain: str) -> list[Line]:
    return [
        line for cell in cells for line in cell.lines if (line.task, line.domain) == (task, domain)
    ]


def _delta(lines: Sequence[Line]) -> dict[str, float | None]:
    """Return the mean difference and interval over seeds, and the lowest and highest seed."""
    deltas = [line.delta_auc for line in lines if line.delta_auc is not None]
    return {
        "delta_auc": _mean([line.delta_auc for line in lines]),
        "low": _mean([line.low for line in lines]),
        "high": _mean([line.high for line in lines]),
        "lowest_seed": min(deltas, default=None),
        "highest_seed": max(deltas, default=None),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _with_cost(rows: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the rows with each method's CPU seconds over continued training's."""
    continued = next((row["cpu_s"] for row in rows if row["method"] == CONTINUED), None)
    return [row | {"of_continued": row["cpu_s"] / continued if continued else None} for row in rows]
