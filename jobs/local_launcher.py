"""Run a function on processes of this machine, which all start again when one of them dies.

Workers are forked from a server that has imported their libraries (`worker_server.py`). They
compute in a process group of their own, gloo on CPUs and NCCL on GPUs.
"""

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from iak.jobs.attempt import attempt_on, attempts_at, failure_message, result_of
from iak.jobs.failures import is_refused
from iak.jobs.heartbeat import BEAT_S, Heartbeats, begin_heartbeat
from iak.jobs.worker_server import worker_server
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import Report
from iak.pipeline.launcher import Launch, Result, Work, backend_of_machine
from iak.pipeline.process import OWN_ERROR_WITHIN_S, Backend, keep_freed_memory, process_group

_LAST_CHARACTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLauncher:
    """Start workers as processes of this machine, and restart all of them when one dies."""

    hung_after_s: int = 600
    """Seconds after which a collective call that a worker does not join fails, and after which the
    command takes a worker without a sign of life for dead."""

    @property
    def is_elsewhere(self) -> bool:
        """Return False: the memory of the workers is this machine's."""
        return False

    def run(self, launch: Launch[Work, Result], report: Report) -> Result:
        """Run a function on every worker; restart all of them when one dies. See `Launcher.run`.

        Raises:
            DoesNotFit: device=cuda with more workers than this machine has GPUs.
            PipelineError: the error that a worker raised, or one with its traceback after the last
                retry failed.
        """
        launch = replace(launch, run_dir=launch.run_dir.resolve())
        backend = backend_of_machine(launch.workers, launch.device)
        group = _Group(launch.workers, backend, self.hung_after_s)
        with attempts_at(launch, report):
            for _ in range(launch.max_failures + 1):
                said = group.try_once(launch)
                if said is None or is_refused(launch.run_dir):
                    break
            else:
                raise PipelineError(failure_message(launch.run_dir, said or ""))
        return result_of(launch)


@dataclass(frozen=True, slots=True)
class _Group:
    """Workers that start together."""

    workers: int
    backend: Backend
    hung_after_s: int

    def try_once(self, launch: Launch[Work, Result]) -> str | None:
        """Run a function on all workers; return None, or what they printed where one failed."""
        with tempfile.TemporaryDirectory(prefix="iak-workers-") as name:
            server, meeting = worker_server(), Path(name)
            processes = [
                server.Process(target=_work, args=(rank, self, meeting, launch))
                for rank in range(self.workers)
            ]
            try:
                for process in processes:
                    process.start()
                hearts = Heartbeats(
                    (_heart_of(rank, meeting) for rank in range(self.workers)),
                    hung_after_s=self.hung_after_s,
                )
                if _have_ended_well(processes, hearts):
                    return None
            finally:
                for process in processes:
                    _end(process)
            return _printed_in(meeting)


def _have_ended_well(processes: Sequence[BaseProcess], hearts: Heartbeats) -> bool:
    """Wait for all processes; after one has failed, only as long as its peers need to end too."""
    deadline: float | None = None
    while waiting := [process for process in processes if process.exitcode is None]:
        timeout = BEAT_S if deadline is None else max(0.0, deadline - time.monotonic())
        if not wait([process.sentinel for process in waiting], timeout):
            if deadline is not None or hearts.has_one_stopped():
                return False
            continue
        if deadline is None and any(process.exitcode for process in processes):
            deadline = time.monotonic() + OWN_ERROR_WITHIN_S
    return not any(process.exitcode for process in processes)


def _heart_of(rank: int, meeting: Path) -> Path:
    """Return the file that a worker touches as long as it lives."""
    return meeting / f"worker {rank}.beat"


def _end(process: BaseProcess) -> None:
    """End a process that may not have started, run still, or be stopped."""
    if process.pid is not None:
        process.kill()
        process.join()


def _printed_in(meeting: Path) -> str:
    """Return the last lines that workers printed."""
    files = sorted(meeting.glob("*.txt"))
    return "\n".join(
        f"{path.stem}:\n{path.read_text(errors='replace')[-_LAST_CHARACTERS:]}" for path in files
    )


def _work(rank: int, group: _Group, meeting: Path, launch: Launch[Work, Result]) -> None:
    """Do a worker's part in a process that a fork has just made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin_heartbeat(_heart_of(rank, meeting))
    _print_to(meeting / f"worker {rank}.txt")
    keep_freed_memory()
    with process_group(
        rank,
        group.workers,
        init_method=f"file://{meeting}/store",
        backend=group.backend,
        threads=1,
        timeout_s=group.hung_after_s,
    ) as worker:
        attempt_on(worker, launch)


def _end_with_parent() -> None:
    """End this process when the command that started it is gone, also where that was killed."""
    parent = parent_process()
    assert parent is not None, "a worker is a child"
    parent.join()
    os._exit(1)


def _print_to(path: Path) -> None:
    """Let this process print to a file, so that libraries' lines do not disturb the console."""
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a crash in a library prints where it happened
