"""Run attempts in processes of their own, so that a kill or a crash is just another result.

The processes are forked from a server that has imported everything, so that an attempt does not
spend its time on imports. Each works inside its workspace, by relative paths, so that a copied
workspace behaves as the first one.
"""

import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random
from typing import Any, Protocol

from iak.pipeline.errors import PipelineError
from iak.schemas.base import Settings
from infra.benchmarks.faults.outcome import Answer, Ended, Ending, Fault

Damage = Callable[[Path, Random], Fault]
"""Damages something below a workspace, at random positions."""
TIMEOUT_S = 240.0
"""Seconds after which an attempt hangs."""
SAID = "said.txt"
"""File with the attempt's output, below its workspace."""
WATCHED = (
    "tune.safetensors",
    "/bundles",
    "/activations",
    "/mapped",
    "/checkpoints",
    "/.best",
    "/.sealed",
    "/base",
    "record.json",
    "/predictions",
    "/registry",
    "night.json",
    "page.html",
    "index.html",
)
"""Names of what an attempt writes; its changes below each are counted, and one may be its last."""
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Attempt(Protocol):
    """A function that runs a verb in this process with one worker, and returns its result."""

    def __call__(self, verb: str, settings: Settings, at: Callable[[str], None]) -> Ended:
        """Run it, and call `at` with the name of every moment that passes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The verb and settings of an attempt, and the damage that it meets."""

    verb: str
    settings: Settings
    before: Callable[[Path], None] | None = None
    """Done to the process before it starts: a full disk, another user."""
    damage: Damage | None = None
    """Done to the workspace while it runs."""
    moment: tuple[str, int] = ("", 0)
    """Event at which damage is done, and the number of its occurrence, from 1."""
    seed: str = ""
    """Seed of the damage."""
    limit_s: float = TIMEOUT_S
    kill: tuple[str, int] = ("", 0)
    """SIGKILL ahead of the n-th change below one of the watched names, or at the n-th occurrence
    of a moment; n from 1."""


def run(server: ForkServerContext, attempt: Attempt, workspace: Path, request: Request) -> Answer:
    """Make an attempt inside a workspace, and wait for its end.

    Args:
        server: server whose processes are forked.
        attempt: a function at a module's top level, since it is imported by name.
        workspace: the folder in which it works.
        request: request to the child; it must pickle.
    """
    receiver, sender = server.Pipe(duplex=False)
    started = time.monotonic()
    process = server.Process(target=_live, args=(sender, attempt, workspace, request))
    process.start()
    sender.close()  # the child holds the other copy, so its death reads as end of file
    try:
        answer: Answer | None = receiver.recv() if receiver.poll(request.limit_s) else None
        is_dead = answer is None
    except EOFError:
        answer, is_dead = None, False
    if is_dead:
        process.kill()
    process.join()
    if answer is not None:
        return answer
    seconds = time.monotonic() - started
    if is_dead:
        return Answer(ending="hung", message=f"still running after {request.limit_s:.0f} s")
    number = -(process.exitcode or 0)
    what = signal.Signals(number).name if number > 0 else f"exit code {-number}"
    return Answer(
        ending="died", message=f"the process ended by {what}", signal=max(number, 0),
        seconds=seconds,
    )  # fmt: skip


@dataclass(slots=True)
class _Watch:
    """Counts the attempt's changes and moments, and injects the damage or kill in time."""

    workspace: Path
    request: Request
    writes: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None
    is_over: bool = False

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count every change of a file that Python is about to make (an audit hook)."""
        if self.is_over or (event not in _CHANGES and event != "open"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        paths = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
        below = " ".join(self._below(path) for path in paths)
        below += below.replace("/.", " /")  # `.bundles.PID.part` is written to become `bundles`
        for name in WATCHED:
            if name in below:
                self.writes[name] += 1
                if self.request.kill == (name, self.writes[name]):
                    os.kill(os.getpid(), signal.SIGKILL)

    def _below(self, path: object) -> str:
        """Return a path as it is below the workspace, with a slash before it; "" for any other."""
        if not isinstance(path, str | os.PathLike):
            return ""
        whole = str(self.workspace / os.fsdecode(path))
        return (
            whole.removeprefix(str(self.workspace))
            if whole.startswith(f"{self.workspace}/")
            else ""
        )

    def at(self, moment: str) -> None:
        """Count a moment, and damage the workspace if it is the one."""
        self.passed[moment] += 1
        if self.request.kill == (moment, self.passed[moment]):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.request.damage and self.request.moment == (moment, self.passed[moment]):
            self.fault = self.request.damage(self.workspace, Random(self.request.seed))


def _live(sender: Connection, attempt: Attempt, workspace: Path, request: Request) -> None:
    """Run an attempt in the workspace, and send its result."""
    said = os.open(workspace / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(workspace)
    watch = _Watch(workspace, request)
    started = time.monotonic()
    ended: Ended | None = None
    ending: Ending = "ended"
    message = ""
    try:
        if request.before is not None:
            request.before(workspace)
        sys.addaudithook(watch.hook)
        ended = attempt(request.verb, request.settings, watch.at)
    except PipelineError as error:
        ending, message = "refused", str(error)
    except BaseException as error:  # noqa: BLE001 - a raw crash is an answer, and a wrong one
        ending, message = "crashed", f"{type(error).__name__}: {error}"
        traceback.print_exc()
    watch.is_over = True
    sender.send(
        Answer(
            ending=ending,
            ended=ended,
            message=message,
            seconds=time.monotonic() - started,
            fault=watch.fault,
            writes=dict(watch.writes),
        )
    )
