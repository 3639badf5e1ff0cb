"""Make the table of trunks from finished cells: each base, what kernels add, beside the first."""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from iak.schemas.record import BenchmarkLine, Target
from infra.benchmarks.quality.cells import Cell
from infra.benchmarks.quality.findings import ALL, lines_at, mean_difference, mean_of, size_note
from infra.benchmarks.specs import BenchTrunksSpec
from infra.benchmarks.trunks.runner import BASE, PARTS, BaseModel, Part, TrunkRunner


class TrunkLine(BenchmarkLine):
    """A model on one task of a log: the mean of its seeds. AUCs are means over domains."""

    table: Literal["trunks"] = "trunks"
    log: str
    method: str
    """Trunk, with its reader of histories where that is not their mean."""
    task: str
    is_first: bool
    """Whether the task is the first of its log."""
    seeds: int
    base_auc: float | None
    """AUC of the base. None, as in the fields below, where a seed has no value."""
    auc: float | None
    """AUC with every kernel."""
    delta_auc: float | None
    """What the kernels add to the AUC."""
    low: float | None
    """Lower end of the 95 % interval of `delta_auc`, a mean over seeds."""
    high: float | None
    lowest_seed: float | None
    """`delta_auc` of the seed with the lowest one."""
    highest_seed: float | None
    base_beside_first: float | None
    """AUC of the base minus that of the first model's base; None in a line of the first."""
    base_beside_first_low: float | None
    base_beside_first_high: float | None
    tuned_beside_first: float | None
    """The same for both with their kernels."""
    tuned_beside_first_low: float | None
    tuned_beside_first_high: float | None
    parameters: int
    """Parameters of the base without its tables, which are the same for every model."""
    kernel_parameters: int
    """Parameters of one kernel."""
    base_cpu_s: float
    """CPU seconds of the base's training, a mean over seeds."""
    cpu_s: float
    """CPU seconds of the tuning of all kernels, a mean over seeds."""
    at_cap: int
    """Seeds in which the base was still improving at its last epoch."""


def trunk_lines(
    runner: TrunkRunner, models: Sequence[BaseModel], seeds: Sequence[int]
) -> list[TrunkLine]:
    """Return a line for each model and task of a log that has finished cells.

    Args:
        runner: of the log.
        models: trunks and readers, in the order of the table.
        seeds: of the table.
    """
    lines = []
    for model in models:
        cells = [cell for seed in seeds if (cell := runner.finished(model, seed)) is not None]
        tasks = dict.fromkeys(line.task for cell in cells for line in cell.lines)
        pairs: dict[Part, list[Cell]] = {
            part: [pair for s in seeds if (pair := runner.finished_pair(model, s, part))]
            for part in PARTS
        }
        lines += [
            _line(model, cells, pairs, task, is_first=index == 0)
            for index, task in enumerate(tasks)
        ]
    return lines


def target_of(lines: Sequence[TrunkLine]) -> Target:
    """Return the target: kernels take AUC from no model.

    Args:
        lines: of all logs and tasks.
    """
    worse = [line for line in lines if line.high is not None and line.high < 0]
    return Target(
        name="tasks, over logs and models, whose AUC is lower with kernels beyond the interval",
        wanted="0",
        measured=len(worse),
        is_met=not worse,
        note=", ".join(f"{line.log} {line.method} {line.task}" for line in worse),
    )


def notes(
    spec: BenchTrunksSpec, runners: Sequence[TrunkRunner], lines: Sequence[TrunkLine]
) -> list[str]:
    """Return notes: how models are trained, what the differences are of, and what is missing.

    Args:
        spec: logs, models and seeds.
        runners: of all logs.
        lines: of all logs and tasks.
    """
    said = [
        "Every model has the settings of the log's catalogue for rates, epochs and widths, which "
        "were chosen for its first one. So a trunk may do better with settings of its own.",
        "Kernels read no statistics. They have the catalogue's settings, but for tables in fp32. "
        "Every kernel is measured, also those that the gate would hold.",
        "A difference is a mean over domains, weighted by rows. Its interval is over rows, those "
        "of one user dependent, where the log names a user.",
        *(size_note(runner.log) for runner in runners),
    ]
    first = [line for line in lines if line.is_first]
    few = [f"{n.log} {n.method} ({n.seeds})" for n in first if n.seeds < len(spec.seeds)]
    if len(spec.seeds) == 1:
        said.append("A first look: one seed, which shows no spread over trainings.")
    if few:
        said.append(f"Not all of {len(spec.seeds)} seeds are finished: {', '.join(few)}.")
    return said


def _line(
    model: BaseModel,
    cells: Sequence[Cell],
    pairs: dict[Part, list[Cell]],
    task: str,
    *,
    is_first: bool,
) -> TrunkLine:
    own = lines_at(cells, task, ALL)
    gain = mean_difference(own)
    base, tuned = (mean_difference(lines_at(pairs[part], task, ALL)) for part in PARTS)
    costs = [(c.base, c.cost) for c in cells if c.base is not None and c.cost is not None]
    return TrunkLine(
        log=cells[0].key.log,
        method=model.name,
        task=task,
        is_first=is_first,
        seeds=len(cells),
        base_auc=mean_of([_minus(line.auc, line.delta_auc) for line in own]),
        auc=mean_of([line.auc for line in own]),
        delta_auc=gain.delta_auc,
        low=gain.low,
        high=gain.high,
        lowest_seed=gain.lowest_seed,
        highest_seed=gain.highest_seed,
        base_beside_first=base.delta_auc,
        base_beside_first_low=base.low,
        base_beside_first_high=base.high,
        tuned_beside_first=tuned.delta_auc,
        tuned_beside_first_low=tuned.low,
        tuned_beside_first_high=tuned.high,
        parameters=costs[0][0].parameters,
        kernel_parameters=costs[0][1].parameters,
        base_cpu_s=fmean(base.cpu_s for base, _ in costs),
        cpu_s=fmean(cost.cpu_s for _, cost in costs),
        at_cap=sum(BASE in cell.at_cap for cell in cells),
    )


def _minus(auc: float | None, delta: float | None) -> float | None:
    return None if auc is None or delta is None else auc - delta
