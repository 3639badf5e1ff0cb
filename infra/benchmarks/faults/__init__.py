"""Measure whether runs survive damage: to files, disks and processes.

outcome   answers of attempts, and how they are judged
child     attempts in processes of their own
workspace the tiny log, base and nights in which faults are injected
registry  classes of faults, and the usual way to play one
damage    ways to damage a file
*         one module for each thing that is damaged: each registers its classes
"""

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Literal, Protocol

from iak.pipeline.events import BenchAdvanced, Report, WorkDone
from iak.pipeline.fork_server import fork_server
from iak.schemas.record import BenchmarkLine, BenchmarkResult, Target
from infra.benchmarks.bad_inputs import run_bad_inputs
from infra.benchmarks.faults import (  # noqa: F401 - each registers its classes
    base_files,
    bucket_nights,
    bundle_files,
    cache_entries,
    checkpoints,
    kills,
    log_files,
    nights,
    ray_nights,
)
from infra.benchmarks.faults.child import Attempt
from infra.benchmarks.faults.outcome import Judgement
from infra.benchmarks.faults.registry import CLASSES, CannotInject, FaultClass, Stage, Vacuous
from infra.benchmarks.faults.verbs import run_verb
from infra.benchmarks.faults.workspace import BenchSetup, prepare
from infra.benchmarks.specs import BenchFaultsSpec

MIN_FAULTS, MIN_INPUTS = 400, 600
_DRAWS = 4
"""Times that a fault is drawn until it has something to damage."""
_NOTES_A_CLASS = 3


class BadInput(Protocol):
    """Outcome of one bad input: a file, a catalogue, a setting, a path."""

    @property
    def kind(self) -> str:
        """Return the kind of input."""
        ...

    @property
    def name(self) -> str:
        """Return the name of the input."""
        ...

    @property
    def outcome(self) -> str:
        """Return `refused by name`, `wrong` or `crashed`."""
        ...

    @property
    def message(self) -> str:
        """Return the message that the user read."""
        ...


class BadInputs(Protocol):
    """A function that tries bad inputs."""

    def __call__(self, folder: Path, *, limit: int, seed: int) -> Sequence[BadInput]:
        """Try at most `limit` bad inputs in a folder."""
        ...


@dataclass(slots=True)
class ClassResult:
    """Results of all faults of one class."""

    fault: str
    where: str
    judged: list[Judgement] = field(default_factory=list)
    skipped: str = ""
    """Reason why nothing was injected."""


class FaultLine(BenchmarkLine):
    """What came of all faults of one class, or of all bad inputs of one kind."""

    table: Literal["faults", "bad inputs"]
    fault: str
    where: str
    injected: int
    survived: int
    refused_by_name: int
    wrong: int
    lost: int
    """Attempts that lost something."""
    rows_lost: int | None
    """Null where nobody counted them, as in the next field."""
    rows_repeated: int | None
    seconds_to_recover: float | None
    """Median; null where no attempt recovered."""
    times_undamaged: float | None
    """Median of the seconds over those of an undamaged attempt."""


def measure(
    spec: BenchFaultsSpec,
    report: Report,
    *,
    attempt: Attempt = run_verb,
    bad_inputs: BadInputs | None = run_bad_inputs,
) -> BenchmarkResult:
    """Inject every class of faults, try bad inputs, and judge the results.

    Raises:
        PipelineError: an undamaged attempt fails, or is not repeatable.
    """
    server = fork_server([attempt.__module__, __name__])
    with tempfile.TemporaryDirectory(prefix="iak-faults-") as folder:
        scratch = Path(folder).resolve()
        scratch.chmod(0o755)  # another user must be able to enter it
        started = time.monotonic()
        setup = prepare(
            server, attempt, scratch, repeats=spec.undamaged, threads=spec.workers, report=report
        )
        prepared = time.monotonic() - started
        results = play_all(setup, classes_of(spec.only), spec, report)
        inputs: list[BadInput] = []
        if bad_inputs is not None and spec.bad_inputs:
            report(BenchAdvanced("bad inputs"))
            workspace = scratch / "inputs"
            workspace.mkdir()
            inputs += bad_inputs(workspace, limit=spec.bad_inputs, seed=spec.seed)
    lines = [line_of(result) for result in results] + input_lines(inputs)
    return BenchmarkResult(
        rows=[line.as_row() for line in lines],
        targets=targets_of(lines, spec),
        notes=notes_of(results, inputs),
        limits={"prepared_s": prepared},
    )


def classes_of(only: Sequence[str]) -> list[FaultClass]:
    """Return the classes whose name or place contains one of the texts; all where there is none."""
    named = [(known, f"{known.name}, {known.where}") for known in CLASSES]
    return [known for known, name in named if not only or any(p in name for p in only)]


def play_all(
    setup: BenchSetup, classes: Sequence[FaultClass], spec: BenchFaultsSpec, report: Report
) -> list[ClassResult]:
    """Let every class take its turns, several faults at once, each in its own copy."""
    results = [ClassResult(fault=known.name, where=known.where) for known in classes]
    turns = turns_of(classes, per_play=spec.per_play, per_class=spec.per_class)

    def one(turn: tuple[int, int]) -> tuple[int, Judgement | str]:
        index, number = turn
        return index, play(setup, classes[index], number, f"{spec.seed}-{index}-{number}")

    with ThreadPoolExecutor(spec.workers) as pool:
        for done, (index, outcome) in enumerate(pool.map(one, turns), start=1):
            if isinstance(outcome, str):
                results[index].skipped = outcome
            else:
                results[index].judged.append(outcome)
            report(WorkDone("faults", done, len(turns)))
    return results


def turns_of(
    classes: Sequence[FaultClass], *, per_play: int, per_class: int
) -> list[tuple[int, int]]:
    """Return the turns of all classes, as pairs of a class's index and the number of its turn.

    Args:
        classes: each with its plays, which take turns.
        per_play: turns of each play.
        per_class: most turns of a class.
    """
    counts = [min(per_class, per_play * len(known.plays)) for known in classes]
    return [
        (index, number)
        for number in range(max(counts, default=0))
        for index, count in enumerate(counts)
        if number < count
    ]


def play(setup: BenchSetup, known: FaultClass, number: int, seed: str) -> Judgement | str:
    """Play a turn of a class; return a reason where there was nothing to damage."""
    reason = ""
    first = Random(known.name).randrange(len(known.plays))  # a small run meets various ways
    chosen = known.plays[(first + number) % len(known.plays)]
    for draw in range(_DRAWS):
        workspace = setup.copy(f"{seed}-{draw}")
        random = Random(f"{known.name} {known.where} {seed} {draw}")
        try:
            return chosen(
                Stage(setup=setup, workspace=workspace, random=random, seed=f"{seed}-{draw}")
            )
        except Vacuous as why:
            reason = str(why)
        except CannotInject as why:
            return str(why)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    return f"nothing to hit in {_DRAWS} draws: {reason}"


def line_of(result: ClassResult) -> FaultLine:
    """Return a class's line of the report."""
    judged = result.judged
    verdicts = [one.verdict for one in judged]
    seconds = [one.seconds for one in judged if one.seconds is not None]
    over = [one.over_undamaged for one in judged if one.over_undamaged is not None]
    return FaultLine(
        table="faults",
        fault=result.fault,
        where=result.where,
        injected=len(judged),
        survived=verdicts.count("survived"),
        refused_by_name=verdicts.count("refused by name"),
        wrong=verdicts.count("wrong"),
        lost=sum(bool(one.lost) for one in judged),
        rows_lost=_sum([one.rows_lost for one in judged]),
        rows_repeated=_sum([one.rows_repeated for one in judged]),
        seconds_to_recover=round(median(seconds), 2) if seconds else None,
        times_undamaged=round(median(over), 2) if over else None,
    )


def _sum(values: Sequence[int | None]) -> int | None:
    """Return the sum of the known values; None where none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def input_lines(inputs: Sequence[BadInput]) -> list[FaultLine]:
    """Return a line for each kind of bad input; a raw crash is wrong."""
    by_kind: dict[str, list[BadInput]] = defaultdict(list)
    for one in inputs:
        by_kind[one.kind].append(one)
    return [
        FaultLine(
            table="bad inputs",
            fault=kind,
            where="bad input",
            injected=len(of_kind),
            survived=0,
            refused_by_name=sum(one.outcome == "refused by name" for one in of_kind),
            wrong=sum(one.outcome != "refused by name" for one in of_kind),
            lost=0,
            rows_lost=None,
            rows_repeated=None,
            seconds_to_recover=None,
            times_undamaged=None,
        )
        for kind, of_kind in by_kind.items()
    ]


def targets_of(lines: Sequence[FaultLine], spec: BenchFaultsSpec) -> list[Target]:
    """Return the targets: nothing wrong, nothing lost, over enough faults and inputs.

    A run of some classes alone need not have enough.
    """
    targets = [
        _at_most("wrong", sum(line.wrong for line in lines), "the notes name each"),
        _at_most("lost", sum(line.lost for line in lines), "the notes name each"),
    ]
    if not spec.only:
        faults, inputs = (
            sum(line.injected for line in lines if line.table == table)
            for table in ("faults", "bad inputs")
        )
        targets.append(_at_least("faults injected", faults, spec.fewest_faults))
        targets.append(_at_least("bad inputs tried", inputs, spec.fewest_inputs))
    return targets


def _at_most(name: str, count: int, note: str) -> Target:
    return Target(
        name=name, wanted="0", measured=count, is_met=count == 0, note=note if count else ""
    )


def _at_least(name: str, count: int, wanted: int) -> Target:
    is_met = count >= wanted
    note = "" if is_met else "raise per_class= or bad_inputs="
    return Target(
        name=name, wanted=f"at least {wanted:,}", measured=count, is_met=is_met, note=note
    )


def notes_of(results: Sequence[ClassResult], inputs: Sequence[BadInput]) -> list[str]:
    """Return notes on wrong results, lost files, and classes that could not be injected."""
    return [*_wrong(results), *_wrong_inputs(inputs), *_not_injected(results)]


def _wrong(results: Sequence[ClassResult]) -> Iterator[str]:
    for result in results:
        bad = [one for one in result.judged if one.verdict == "wrong" or one.lost]
        for one in bad[:_NOTES_A_CLASS]:
            reason = one.note if one.verdict == "wrong" else one.verdict
            gone = f"; lost: {', '.join(one.lost[:3])}" if one.lost else ""
            yield f"{result.fault} ({result.where}): {one.fault}: {reason}{gone}"
        if len(bad) > _NOTES_A_CLASS:
            yield f"{result.fault} ({result.where}): {len(bad) - _NOTES_A_CLASS} more of this class"


def _wrong_inputs(inputs: Sequence[BadInput]) -> Iterator[str]:
    for one in inputs:
        if one.outcome != "refused by name":
            yield f"bad input, {one.kind}, {one.name}: {one.outcome}: {one.message[:300]}"


def _not_injected(results: Sequence[ClassResult]) -> Iterator[str]:
    for result in results:
        if result.skipped and not result.judged:
            yield f"{result.fault} ({result.where}) was not injected: {result.skipped}"
