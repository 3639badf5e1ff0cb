"""Judge the outcome of one fault.

survived           the attempt ended with exactly the result of an honest run over the same inputs
refused by name    a PipelineError that names the damaged thing, before anything was published
wrong              another result, a refusal that names nothing, a raw traceback, a signal, a hang
lost               something published before is gone, half-written or unreadable afterwards
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Ending = Literal["ended", "refused", "crashed", "died", "hung"]
Verdict = Literal["survived", "refused by name", "wrong"]
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that was injected."""

    what: str
    """The damage and its file: `byte 117 of R1/base/manifest.json flipped`."""
    names: tuple[str, ...]
    """A refusal must name one of these: the damaged path, its folder, or the setting that gave
    it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Result of an attempt that ended."""

    things: Mapping[str, str]
    """Published thing -> digest of its content."""
    rows: Mapping[str, int] | None = None
    """Rows that the run read, by purpose; None where it read none or does not report them."""
    repeated: int = 0
    """Rows that it read more than once, where rows have identities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one attempt ended, in a process of its own."""

    ending: Ending
    ended: Ended | None = None
    message: str = ""
    """Message of the error, or a description of the process's end."""
    seconds: float = 0.0
    signal: int = 0
    """Signal that killed the process; 0 for none."""
    fault: Fault | None = None
    """The fault that was injected while it ran."""
    writes: Mapping[str, int] | None = None
    """Changes to files below each of the watched names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Judgement of one fault."""

    fault: str
    verdict: Verdict
    note: str = ""
    """Reason why the outcome is wrong."""
    lost: tuple[str, ...] = ()
    """Published files that are damaged since."""
    rows_lost: int | None = None
    rows_repeated: int | None = None
    """Rows that were read twice; None where the attempt read no rows."""
    seconds: float | None = None
    """Seconds of the recovering attempt, where the fault was survived."""
    over_undamaged: float | None = None
    """These seconds over those of an undamaged attempt."""


def judge(
    answer: Answer,
    fault: Fault,
    *,
    honest: Sequence[Answer],
    has_published: bool,
    lost: Sequence[str] = (),
) -> Judgement:
    """Judge the attempt that met a fault.

    Args:
        answer: answer of the attempt.
        fault: fault that it met.
        honest: undamaged runs over the same inputs, any of which is a right answer.
        has_published: whether it has published something that was not there before.
        lost: published files that are damaged since.
    """
    verdict, note = _verdict(answer, fault, honest, has_published=has_published)
    rows_lost, rows_repeated = row_losses(answer, honest)
    is_survived = verdict == "survived"
    usual = honest[0].seconds if honest else 0.0
    return Judgement(
        fault=fault.what,
        verdict=verdict,
        note=note,
        lost=tuple(lost),
        rows_lost=rows_lost,
        rows_repeated=rows_repeated,
        seconds=answer.seconds if is_survived else None,
        over_undamaged=answer.seconds / usual if is_survived and usual else None,
    )


def _verdict(
    answer: Answer, fault: Fault, honest: Sequence[Answer], *, has_published: bool
) -> tuple[Verdict, str]:
    if answer.ending == "ended" and answer.ended is not None:
        right = [run.ended.things for run in honest if run.ended is not None]
        if answer.ended.things in right:
            return "survived", ""
        return "wrong", f"ended with another result: {_difference(answer.ended.things, right)}"
    if answer.ending != "refused":
        return "wrong", f"{answer.ending}: {answer.message[:_SHOWN_CHARACTERS]}"
    if not any(name in answer.message for name in fault.names):
        complaint = f"refused without naming {' or '.join(fault.names)}"
        return "wrong", f"{complaint}: {answer.message[:_SHOWN_CHARACTERS]}"
    if has_published:
        return "wrong", f"refused after publishing: {answer.message[:_SHOWN_CHARACTERS]}"
    return "refused by name", ""


def _difference(result: Mapping[str, str], right: Sequence[Mapping[str, str]]) -> str:
    """Return a text with the published files that differ from the nearest right result."""
    if not right:
        return "an honest run over these inputs does not end at all"
    differing = min(
        (
            [n for n in sorted({*result, *wanted}) if result.get(n) != wanted.get(n)]
            for wanted in right
        ),
        key=len,
    )
    shown = ", ".join(differing[:4]) + (", ..." if len(differing) > 4 else "")
    return f"{len(differing)} of {len(right[0])} published things ({shown})"


def row_losses(answer: Answer, honest: Sequence[Answer]) -> tuple[int | None, int | None]:
    """Return the rows that the attempt missed, and those that it read more than once.

    Both are None where the attempt read no rows, or no undamaged run shows how many there are.
    """
    wanted = next((r.ended.rows for r in honest if r.ended is not None and r.ended.rows), None)
    if answer.ended is None or answer.ended.rows is None or wanted is None:
        return None, None
    result = answer.ended.rows
    gaps = [wanted[name] - result.get(name, 0) for name in wanted]
    repeated = sum(max(-gap, 0) for gap in gaps) + answer.ended.repeated
    return sum(max(gap, 0) for gap in gaps), repeated
