"""Register classes of faults. Each is a function that injects one fault.

A new class is one decorated function that damages a copy of the ready workspace:

    @damage("bundle renamed", where="bundles", request="evaluation")
    def renamed(workspace: Path, random: Random) -> Fault:
        folder = random.choice(list_bundles(workspace / "N1/bundles"))
        folder.rename(folder.with_name("region=x"))
        return Fault(what=f"{folder.name} renamed to region=x", names=("region=x", folder.name))

Other faults, such as kills and two writers, register a `Play` of their own.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

from iak.pipeline.base.published_base import MANIFEST
from iak.pipeline.publish.bundle import list_bundles
from infra.benchmarks.faults.child import SAID, Damage, Request
from infra.benchmarks.faults.outcome import Answer, Fault, Judgement, judge, row_losses
from infra.benchmarks.faults.workspace import CACHE, PUBLISHED, REQUESTS, RUN_DIRS, BenchSetup

Accepts = Literal["undamaged", "fresh", "either", "left out"]
"""Undamaged run whose result is right: one before the fault, one over the inputs after it, or
either of them. `left out`: the run may leave the damaged input out, if it prints its name."""
_RERUN = "honest"
_HOUR_NS = 3600 * 10**9


class Vacuous(Exception):
    """The fault had nothing to damage, or changed nothing. It is drawn again."""


class CannotInject(Exception):
    """This machine cannot inject the class. The report repeats the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One copy of the ready workspace, for one fault."""

    setup: BenchSetup
    workspace: Path
    random: Random
    seed: str

    def undamaged(self, request: str) -> Answer:
        """Return the answer to a request without a fault."""
        return self.setup.undamaged[request]

    def fresh(self, request: str) -> Answer:
        """Return the answer of an undamaged run over the present inputs.

        It starts again, and keeps only the standardisation of earlier nights.
        """
        workspace = self.workspace.with_name(f"{self.workspace.name}-{_RERUN}")
        shutil.copytree(self.workspace, workspace, symlinks=True)
        for entry in (workspace / CACHE).rglob("*"):
            if entry.is_file() and entry.suffix != ".standard":
                entry.unlink()
        answer = self.setup.ask(workspace, elsewhere(REQUESTS[request], _RERUN))
        shutil.rmtree(workspace)
        return answer


def elsewhere(request: Request, run_dir: str) -> Request:
    """Return the same request with another run folder."""
    return replace(request, settings={**request.settings, "run_dir": run_dir})


def an_hour_later(_place: Path) -> None:
    """Make files an hour old, since digests of new files are not stored (content.py)."""
    now = time.time_ns
    time.time_ns = lambda: now() + _HOUR_NS


Play = Callable[[Stage], Judgement]
"""Injects one fault into a copy, lets an attempt meet it, and judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultClass:
    """One kind of fault, and the plays that inject it, in turns."""

    name: str
    where: str
    plays: list[Play] = field(default_factory=list)


CLASSES: list[FaultClass] = []


def register(name: str, where: str, play: Play) -> None:
    """Add a play to a class, which is made with its first one."""
    for known in CLASSES:
        if (known.name, known.where) == (name, where):
            known.plays.append(play)
            return
    CLASSES.append(FaultClass(name=name, where=where, plays=[play]))


def damage(
    name: str,
    *,
    where: str,
    request: str,
    accepts: Accepts = "undamaged",
    moment: tuple[str, int] | None = None,
) -> Callable[[Damage], Damage]:
    """Register a function that damages a workspace as a class of faults.

    Args:
        name: name of the class.
        where: the file that is hit, in the table's words.
        request: the attempt that meets it, of `REQUESTS`.
        accepts: right results: that of a run before the fault, or of a fresh one on what
            is there after it.
        moment: while the attempt runs, at the n-th of these events; before it starts when absent.
    """

    def add(inject: Damage) -> Damage:
        register(name, where, Damaging(inject, request, accepts, moment))
        return inject

    return add


@dataclass(frozen=True, slots=True)
class Damaging:
    """The usual play: damage the copy, make one attempt, compare it with honest ones."""

    inject: Damage
    request: str
    accepts: Accepts = "undamaged"
    moment: tuple[str, int] | None = None
    is_warm: bool = False
    """Whether an undamaged attempt is made first in the same folder, so that digests by path are
    stored."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        asked = REQUESTS[self.request]
        if self.is_warm:
            stage.setup.ask(stage.workspace, replace(elsewhere(asked, "W1"), before=an_hour_later))
        run_dir = stage.workspace / RUN_DIRS[self.request]
        if self.moment is None:
            fault = self.inject(stage.workspace, stage.random)
            offered, before = offers(run_dir), published(stage.workspace)
            answer = stage.setup.ask(stage.workspace, asked)
        else:
            offered, before = offers(run_dir), published(stage.workspace)
            asked = replace(asked, damage=self.inject, moment=self.moment, seed=stage.seed)
            answer = stage.setup.ask(stage.workspace, asked)
            if answer.fault is None:
                raise Vacuous(f"{self.moment} never came: {answer.message}")
            fault = answer.fault
        judged = judge(
            answer,
            fault,
            honest=list(self._honest(stage, answer)),
            has_published=bool(offers(run_dir) - offered),
            lost=lost(before, stage.workspace, RUN_DIRS[self.request]),
        )
        if judged.verdict == "wrong" and self.accepts == "left out":
            return self._left_out(stage, answer, fault) or judged
        return judged

    def _left_out(self, stage: Stage, answer: Answer, fault: Fault) -> Judgement | None:
        """Return a refusal by name where the run printed the input that it left out."""
        said = " ".join((stage.workspace / SAID).read_text(errors="replace").split())
        if answer.ending != "ended" or not any(name in said for name in fault.names):
            return None
        after = stage.fresh(self.request)
        if after.ended is None or answer.ended is None or after.ended.things != answer.ended.things:
            return None
        lost_rows, repeated = row_losses(answer, [stage.undamaged(self.request)])
        return Judgement(
            fault=f"{fault.what}; left out, and said",
            verdict="refused by name",
            rows_lost=lost_rows,
            rows_repeated=repeated,
        )

    def _honest(self, stage: Stage, answer: Answer) -> Iterator[Answer]:
        before = stage.undamaged(self.request)
        if self.accepts != "fresh":
            yield before
        if self.accepts in ("undamaged", "left out") or answer.ending != "ended":
            return
        after = stage.fresh(self.request)
        if self.accepts == "fresh" and after.ended == before.ended:
            raise Vacuous("an honest run over the changed inputs comes to the same")
        yield replace(after, seconds=before.seconds)


def published(workspace: Path) -> dict[str, str]:
    """Return the digest of every file that was published before any attempt."""
    roots = [root for pattern in PUBLISHED for root in sorted(workspace.glob(pattern))]
    files = [
        path
        for root in roots
        for path in ([root] if root.is_file() else root.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    ]
    return {
        str(f.relative_to(workspace)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def lost(before: dict[str, str], workspace: Path, run_dir: str = "") -> list[str]:
    """Return the published files that are gone or changed since.

    Args:
        before: earlier result of `published`.
        workspace: the copy as it is now.
        run_dir: folder of the attempt, which may publish the same again in its own folder.
    """
    now = published(workspace)
    own = f"{run_dir}/"
    return [
        name
        for name, digest in before.items()
        if (name not in now if run_dir and name.startswith(own) else now.get(name) != digest)
    ]


def offers(run_dir: Path) -> set[str]:
    """Return the names in a run folder that others read: its bundles, its base."""
    has_base = (run_dir / "base" / MANIFEST).is_file()
    return {folder.name for folder in list_bundles(run_dir / "bundles")} | {
        name for name in ("base",) if has_base
    }


def unnamed_fault(what: str) -> Fault:
    """Return a fault that must be survived, so that no refusal is right."""
    return Fault(what=what, names=())
