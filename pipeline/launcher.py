"""Define launchers, which start the workers of a run.

A launcher runs one function on every worker and returns worker 0's result. The number of workers
and their device are settings of the run, so the caller passes them.

ProcessLauncher    this process for one worker, else gloo processes on this machine
TorchrunLauncher   processes that torchrun starts on this machine, with GPUs where there are enough

The verbs have two more, which start workers again when one dies: LocalLauncher on this machine
(jobs/local_launcher.py), and RayLauncher on a cluster (jobs/ray_launcher.py).
"""

import json
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed as dist

from iak.pipeline import torchrun
from iak.pipeline.errors import BadRequest, DoesNotFit, PipelineError
from iak.pipeline.events import Report, WorkersEnded, WorkersStarted
from iak.pipeline.files import put_file
from iak.pipeline.process import (
    Backend,
    Worker,
    current_worker,
    process_group,
    run_on_workers,
    run_with_torchrun,
)
from iak.pipeline.progress import PROGRESS, following, line_writer, worker_report

Work = TypeVar("Work")
WorkerFunction = Callable[[Worker, Work, Report], dict[str, Any]]
"""A worker's part of a run. It is found by its name, so it stands at the top of a module."""


class Launcher(Protocol):
    """Starts workers and waits for them."""

    @property
    def is_elsewhere(self) -> bool:
        """Return whether workers run on other machines, whose memory is not known here."""
        ...

    def run(
        self,
        function: WorkerFunction[Work],
        work: Work,
        report: Report,
        *,
        title: str,
        run_dir: Path,
        workers: int,
        device: str,
        max_failures: int,
    ) -> dict[str, Any]:
        """Run `function(worker, work, report)` on every worker, and return worker 0's result.

        Args:
            function: a worker's part.
            work: its argument, the same for every worker; it must pickle.
            report: gets every event of worker 0, between `WorkersStarted` and `WorkersEnded`.
            title: name of the work in events.
            run_dir: folder that all workers see; worker 0 appends its events to `progress.jsonl`.
            workers: number of workers, at least 1.
            device: `auto`, `cpu` or `cuda`.
            max_failures: worker deaths that the run survives. A launcher that cannot restart a
                worker survives none.

        Returns:
            The result as JSON carries it: tuples are lists, keys are text.

        Raises:
            PipelineError: the error that a worker raised.
        """
        ...


class ProcessLauncher:
    """Start workers as processes of this machine; a single worker is this process itself."""

    is_elsewhere = False

    def run(
        self,
        function: WorkerFunction[Work],
        work: Work,
        report: Report,
        *,
        title: str,
        run_dir: Path,
        workers: int,
        device: str,
        max_failures: int,  # noqa: ARG002 - the first death ends the run
    ) -> dict[str, Any]:
        """Run a function on every worker; see `Launcher.run`.

        Raises:
            BadRequest: several workers were to compute on GPUs, which gloo processes cannot.
        """
        if workers > 1 and device == "cuda":
            raise BadRequest(
                f"device=cuda with workers={workers} needs Ray or torchrun: pass a RayLauncher or "
                "a TorchrunLauncher, or ask for device=cpu or one worker"
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        report(WorkersStarted(title))
        try:
            if workers == 1:
                result = _run_here(function, work, report, path=run_dir / PROGRESS, device=device)
            else:
                with following(run_dir / PROGRESS, report):
                    result = run_on_workers(
                        _run_in_process, workers, function, work, run_dir / PROGRESS
                    )[0]
        finally:
            report(WorkersEnded(title))
        return _as_json(result)


class TorchrunLauncher:
    """Start workers as processes of torchrun on this machine, each with a GPU of its own."""

    is_elsewhere = False

    def run(
        self,
        function: WorkerFunction[Work],
        work: Work,
        report: Report,
        *,
        title: str,
        run_dir: Path,
        workers: int,
        device: str,
        max_failures: int,  # noqa: ARG002 - the first death ends the run
    ) -> dict[str, Any]:
        """Run a function on every worker; see `Launcher.run`.

        Raises:
            DoesNotFit: device=cuda with more workers than this machine has GPUs.
        """
        backend = backend_of_machine(workers, device)
        run_dir.mkdir(parents=True, exist_ok=True)
        progress = run_dir.resolve() / PROGRESS
        report(WorkersStarted(title))
        try:
            with tempfile.TemporaryDirectory(prefix="iak-torchrun-work-") as name:
                folder = Path(name)
                content = pickle.dumps((function, work, progress, backend))
                put_file(folder / torchrun.WORK, content)
                try:
                    with following(progress, report):
                        run_with_torchrun(torchrun.__name__, [name], workers)
                except PipelineError:
                    _raise_workers_error(folder)
                    raise
                result: dict[str, Any] = json.loads((folder / torchrun.RESULT).read_text())
                return result
        finally:
            report(WorkersEnded(title))


def backend_of_machine(workers: int, device: str) -> Backend:
    """Return the collective library of workers on this machine: NCCL where each has a GPU.

    Raises:
        DoesNotFit: device=cuda with more workers than this machine has GPUs.
    """
    cards = torch.cuda.device_count()
    if device == "cuda" and cards < workers:
        raise DoesNotFit(
            f"device=cuda with workers={workers}, but this machine has {cards} GPUs. "
            "Ask for fewer workers, or device=cpu"
        )
    return "nccl" if device != "cpu" and cards >= workers else "gloo"


def _raise_workers_error(folder: Path) -> None:
    """Raise the error that a worker left, in its own class; do nothing where none left one."""
    for path in sorted(folder.glob(torchrun.ERROR.format(rank="*"))):
        error: PipelineError = pickle.loads(path.read_bytes())
        raise error


def _run_here(
    function: WorkerFunction[Work], work: Work, report: Report, *, path: Path, device: str
) -> dict[str, Any]:
    """Run a function as the only worker, in this process."""
    write = line_writer(path)
    lock = threading.Lock()

    def both(event: Any) -> None:  # noqa: ANN401 - as `Report`
        write(event)
        with lock:
            report(event)

    with _only_worker(device) as worker:
        return function(worker, work, both)


@contextmanager
def _only_worker(device: str) -> Iterator[Worker]:
    """Yield this process as a world of one; use the caller's process group where there is one."""
    if dist.is_initialized():
        yield current_worker()
        return
    threads = torch.get_num_threads()
    # One thread, as under Ray: sums that threads share have another order, and so other digits.
    try:
        with process_group(0, 1, backend="gloo" if device == "cpu" else None, threads=1) as worker:
            yield worker
    finally:
        torch.set_num_threads(threads)


def _run_in_process(
    worker: Worker, function: WorkerFunction[Work], work: Work, path: Path
) -> dict[str, Any]:
    """Run a function as one of several processes; worker 0 writes the progress file."""
    return function(worker, work, worker_report(path, worker.rank))


def _as_json(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result after a round trip through JSON, as Ray's workers pass it."""
    document: dict[str, Any] = json.loads(json.dumps(result))
    return document
