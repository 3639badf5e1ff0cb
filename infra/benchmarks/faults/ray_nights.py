"""Inject faults in a platform's night on a local Ray: dead and hung workers, driver, head.

Such a night has two workers, so that its sums have another order than those of one worker. It is
compared with an undisturbed night on Ray.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP, Signals
from threading import Lock
from typing import Any

from infra.benchmarks.faults.outcome import Answer, Fault, Judgement, judge
from infra.benchmarks.faults.registry import (
    Stage,
    Vacuous,
    lost,
    published,
    register,
    unnamed_fault,
)
from infra.benchmarks.faults.workspace import REQUESTS, BenchSetup

NIGHT = "platform's night on Ray"
_HUNG_AFTER_S = 30
_EPOCHS = 40
"""Epochs enough for a fault to come in their midst: the driver hears of an epoch a little later."""
_ALONE = REQUESTS["platform's night"]
_FINETUNE: Mapping[str, Any] = _ALONE.settings["finetune"]
_POOLED = {**_FINETUNE["pooled"], "live_epochs": _EPOCHS, "patience": _EPOCHS}
REQUEST = replace(
    _ALONE,
    settings={
        **_ALONE.settings,
        "workers": {"workers": 2, "device": "cpu", "hung_after_s": _HUNG_AFTER_S},
        "finetune": {**_FINETUNE, "pooled": _POOLED},
        "launcher": "ray",
    },
    limit_s=900.0,
)
_EPOCH = "level 0"
"""Event of an epoch of the pooled kernel."""
_WORKER, _HEAD, _NODE = "RayTrainWorker", "gcs_server", "raylet/raylet"
"""Parts of the command lines of Ray's processes (2.60)."""


def processes_below(pid: int) -> dict[int, str]:
    """Return the command line of every process below one, by its id (Linux)."""
    parents: dict[int, int] = {}
    words: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            words[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    below: dict[int, str] = {}
    newest = {pid}
    while newest:
        newest = {child for child, parent in parents.items() if parent in newest}
        below |= {child: words[child] for child in newest}
    return below


@dataclass(frozen=True, slots=True)
class Signalled:
    """Sends a signal to some of the processes that the Ray of this process has started."""

    part: str
    """A part of their command line."""
    count: int
    signal: Signals

    def __call__(self, _workspace: Path, random: Random) -> Fault:
        """Signal as many as there are to be, chosen at random.

        Raises:
            Vacuous: there are not so many.
        """
        below = processes_below(os.getpid())
        found = sorted(pid for pid, words in below.items() if self.part in words)
        if len(found) < self.count:
            raise Vacuous(f"Ray has {len(found)} processes of {self.part}, not {self.count}")
        for pid in random.sample(found, self.count):
            os.kill(pid, self.signal)
        return unnamed_fault(str(self))

    def __str__(self) -> str:
        """Return what is done, for a note."""
        return f"{self.signal.name} to {self.count} {self.part}"


@dataclass(frozen=True, slots=True)
class _Undisturbed:
    """Answers of undisturbed nights on Ray, each asked for once and when it is needed."""

    answers: dict[Path, Answer] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def of(self, setup: BenchSetup) -> Answer:
        """Return the answer in a ready workspace."""
        with self.lock:
            if setup.ready not in self.answers:
                workspace = setup.copy("undisturbed on Ray")
                self.answers[setup.ready] = setup.ask(workspace, REQUEST)
                shutil.rmtree(workspace)
            return self.answers[setup.ready]


_undisturbed = _Undisturbed()


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A night on Ray that something disturbs during its tuning.

    It goes on by itself. Where its driver is lost or gives up, the same night is run again.
    """

    signalled: Signalled | None
    """Processes that get a signal; None for the driver, which is killed."""
    must_end: bool = True
    """Whether the night must survive by itself."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once.

        Raises:
            Vacuous: the night was over before.
        """
        before = published(stage.workspace)
        moment = (_EPOCH, stage.random.randrange(2, _EPOCHS // 2))
        asked = replace(REQUEST, seed=stage.seed)
        if self.signalled is None:
            asked = replace(asked, kill=moment)
        else:
            asked = replace(asked, damage=self.signalled, moment=moment)
        answer = stage.setup.ask(stage.workspace, asked)
        if answer.ending == "ended" and answer.fault is None:
            raise Vacuous(f"{moment} never came")
        what = str(self.signalled) if self.signalled else "SIGKILL to the driver"
        if answer.ending != "ended" and not self.must_end:
            if answer.ending == "hung":
                return judge(answer, unnamed_fault(what), honest=[], has_published=False)
            answer = stage.setup.ask(stage.workspace, REQUEST)
        return judge(
            answer,
            unnamed_fault(f"{what} at epoch {moment[1]}"),
            honest=[_undisturbed.of(stage.setup)],
            has_published=False,
            lost=lost(before, stage.workspace),
        )


register("a worker killed", NIGHT, Disturbed(Signalled(_WORKER, 1, SIGKILL)))
register("both workers killed", NIGHT, Disturbed(Signalled(_WORKER, 2, SIGKILL)))
register("a worker hung", NIGHT, Disturbed(Signalled(_WORKER, 1, SIGSTOP)))
register("driver killed, run again", NIGHT, Disturbed(None, must_end=False))
for _part in (_HEAD, _NODE):
    _play = Disturbed(Signalled(_part, 1, SIGKILL), must_end=False)
    register("Ray's head killed, run again", NIGHT, _play)
