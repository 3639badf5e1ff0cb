"""Inject faults in a platform's night: kills in every phase, disks, memory, logs, clocks.

A night that is disturbed is run again, as its schedule would run it. Then everything that nights
leave behind is compared with what an undisturbed night leaves: the bundles bit for bit, the
pointers, the chains of evidence, the number of commits, the records and the pages.
"""

import os
import resource
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from infra.benchmarks.faults.cache_entries import NOBODY, as_nobody
from infra.benchmarks.faults.child import Damage, Request
from infra.benchmarks.faults.damage import delete, truncate
from infra.benchmarks.faults.kills import Together
from infra.benchmarks.faults.log_files import TUNED, InLog, OnFile, changed, restated
from infra.benchmarks.faults.outcome import Answer, Fault, Judgement, judge
from infra.benchmarks.faults.registry import (
    CannotInject,
    Stage,
    Vacuous,
    lost,
    published,
    register,
    unnamed_fault,
)
from infra.benchmarks.faults.workspace import REQUESTS

NIGHT = "platform's night"


def _again(stage: Stage, fault: Fault, before: dict[str, str]) -> Judgement:
    """Run the night again without a fault; judge what all nights came to by an undisturbed one."""
    answer = stage.setup.ask(stage.workspace, REQUESTS[NIGHT])
    return judge(
        answer,
        fault,
        honest=[stage.undamaged(NIGHT)],
        has_published=False,
        lost=lost(before, stage.workspace),
    )


@dataclass(frozen=True, slots=True)
class DriverKilled:
    """A night whose driver is killed, and the same night again.

    `at` is a moment, or a watched name: then the night is killed ahead of any change below it.
    """

    at: str

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        before = published(stage.workspace)
        changes = (stage.undamaged(NIGHT).writes or {}).get(self.at, 0)
        nth = stage.random.randrange(1, changes + 1) if changes else 1
        answer = stage.setup.ask(stage.workspace, replace(REQUESTS[NIGHT], kill=(self.at, nth)))
        if not answer.signal:
            raise Vacuous(f"it ended before {self.at} {nth}: {answer.message}")
        return _again(stage, unnamed_fault(f"driver killed at {self.at}, {nth}"), before)


_KILLS = {
    "plan": ("plan begins", "plan ends"),
    "tune": ("tune begins", "tune.safetensors", "/bundles"),
    "promote": ("promote begins", "/registry", "promote ends"),
    "record and page": ("night.json", "page.html", "index.html"),
}


@dataclass(frozen=True, slots=True)
class Stopped:
    """A night that something stops with a message, and the same night again once that is gone."""

    request: Request
    fault: Fault
    """A message of the first attempt must name one of its names."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        before = published(stage.workspace)
        answer = stage.setup.ask(stage.workspace, replace(self.request, seed=stage.seed))
        if self.request.damage and answer.fault is None:
            raise Vacuous(f"{self.request.moment} never came: {answer.message}")
        fault = answer.fault or self.fault
        if answer.ending == "ended":
            raise Vacuous(f"{fault.what}: the night did not notice")
        return _wrong_stop(answer, fault) or _again(stage, unnamed_fault(fault.what), before)


def _wrong_stop(answer: Answer, fault: Fault) -> Judgement | None:
    """Return the judgement on a stop that says nothing of its cause; None on any other.

    The command line prints errors of the system and of memory as one sentence (`jobs/cli.py`), so
    that they are no raw crashes there.
    """
    if answer.ending in ("refused", "crashed") and any(n in answer.message for n in fault.names):
        return None
    note = f"{answer.ending} without naming {' or '.join(fault.names)}: {answer.message[:300]}"
    return Judgement(fault=fault.what, verdict="wrong", note=note)


def disk_full(_workspace: Path, random: Random) -> Fault:
    """Let no file of this process grow beyond a few KiB, as on a disk that is full."""
    most = random.choice([0, 1, 4, 16]) * 1024
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    return Fault(what=f"no file may be larger than {most:,} bytes", names=("nights", "registry"))


def memory_full(_workspace: Path, random: Random) -> Fault:
    """Let this process have hardly more memory than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    more = random.choice([0, 1, 4]) * 2**20
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY)
    )
    # A thread whose stack finds no memory is refused in other words (Python 3.11).
    names = ("memory", "bad_alloc", "can't start new thread")
    return Fault(what=f"{more:,} bytes of memory left", names=names)


def _meeting(damage: Damage, moment: str) -> Stopped:
    request = replace(REQUESTS[NIGHT], damage=damage, moment=(moment, 1))
    return Stopped(request, unnamed_fault(moment))


def read_only_registry(stage: Stage) -> Judgement:
    """Let another user, who may not write the registry, run the night; then its owner."""
    if os.geteuid() != 0:
        raise CannotInject("only root can become another user; run it as root")
    registry = stage.workspace / "registry"
    for path in [stage.workspace, *stage.workspace.rglob("*")]:
        if path != registry and registry not in path.parents:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    fault = Fault(what="the registry is another user's", names=("registry",))
    return Stopped(replace(REQUESTS[NIGHT], before=as_nobody), fault)(stage)


@dataclass(frozen=True, slots=True)
class LogDamaged:
    """A night whose log changes while it runs, and the same night again."""

    hurt: OnFile
    moment: str

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once; right is an undisturbed night over the log before, or over that after."""
        before = published(stage.workspace)
        inject = InLog(self.hurt, TUNED, names=("the log",))
        request = replace(REQUESTS[NIGHT], damage=inject, moment=(self.moment, 1), seed=stage.seed)
        answer = stage.setup.ask(stage.workspace, request)
        if answer.fault is None:
            raise Vacuous(f"{self.moment} never came: {answer.message}")
        fault = answer.fault
        if answer.ending != "ended":
            if (wrong := _wrong_stop(answer, fault)) is not None:
                return wrong
            answer = stage.setup.ask(stage.workspace, REQUESTS[NIGHT])
        return judge(
            answer,
            fault,
            honest=[stage.undamaged(NIGHT), *over_this_log(stage)],
            has_published=False,
            lost=lost(before, stage.workspace),
        )


def over_this_log(stage: Stage) -> list[Answer]:
    """Return the answer of an undisturbed night over the log as it is now, if it ends."""
    workspace = stage.setup.copy(f"{stage.workspace.name}-honest")
    shutil.rmtree(workspace / "log")
    shutil.copytree(stage.workspace / "log", workspace / "log", symlinks=True)
    answer = stage.setup.ask(workspace, REQUESTS[NIGHT])
    shutil.rmtree(workspace)
    return [answer] if answer.ending == "ended" else []


@dataclass(frozen=True, slots=True)
class ClockBack:
    """A night whose clock shows a moment before that of the night before."""

    days: int

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        before = published(stage.workspace)
        asked = REQUESTS[NIGHT]
        settings = {**asked.settings, "clock_days": -self.days}
        answer = stage.setup.ask(stage.workspace, replace(asked, settings=settings))
        return judge(
            answer,
            unnamed_fault(f"the clock {self.days} days behind"),
            honest=[stage.undamaged(NIGHT)],
            has_published=False,
            lost=lost(before, stage.workspace),
        )


def _register() -> None:
    for phase, moments in _KILLS.items():
        for moment in moments:
            register("night's driver killed, run again", phase, DriverKilled(moment))
    for moment in ("tune begins", "promote begins"):
        register("disk full, then run again", NIGHT, _meeting(disk_full, moment))
    for moment in ("shift begins", "tune begins"):
        register("out of memory, then run again", NIGHT, _meeting(memory_full, moment))
    register("registry is read-only, then run again", NIGHT, read_only_registry)
    hurts: dict[str, OnFile] = {
        "truncated": truncate,
        "deleted": delete,
        "labels restated": restated,
        "features changed": changed,
    }
    for what, hurt in hurts.items():
        for moment in ("plan ends", "listed"):
            register(f"log file {what}, run again", "while a night runs", LogDamaged(hurt, moment))
    for days in (1, 400):
        register("clock moved back", "between two nights", ClockBack(days))
    register("two nights at once", NIGHT, Together((NIGHT, NIGHT)))


_register()
