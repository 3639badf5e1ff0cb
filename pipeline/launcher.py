"""Define launchers, which start the workers of a run.

A launcher runs one function on every worker and returns worker 0's result. `Launch` has that
function, its argument, and the number of workers. The result comes from the worker as JSON.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from pydantic import TypeAdapter
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
from iak.pipeline.progress import PROGRESS, following, line_writer, summed, worker_report
from iak.schemas.job import WorkerJobSpec

Work = TypeVar("Work")
Result = TypeVar("Result")
WorkerFunction = Callable[[Worker, Work, Report], Result | None]
"""A worker's part of a run. It is found by its name, so it stands at the top of a module. Only the
result of worker 0 is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Generic[Work, Result]):
    """A function to run on every worker, with its work and the workers' settings."""

    function: WorkerFunction[Work, Result]
    """A worker's part."""
    work: Work
    """Its argument, the same for every worker. It must be picklable."""
    result: type[Result]
    """Class of the result: a document, or `NoneType` where files are the result."""
    title: str
    """Name of the work in events."""
    run_dir: Path
    """Folder that all workers see; they append their events to `progress.jsonl`."""
    workers: int
    """Number of workers, at least 1."""
    device: str
    """`auto`, `cpu` or `cuda`."""
    max_failures: int
    """Worker deaths that the run survives. A launcher that cannot restart a worker survives
    none."""

    @classmethod
    def of(
        cls,
        spec: WorkerJobSpec,
        function: WorkerFunction[Work, Result],
        work: Work,
        result: type[Result],
        *,
        title: str,
    ) -> "Launch[Work, Result]":
        """Return the launch of a job, which takes run folder and workers from its settings.

        Args:
            spec: settings of the job.
            function: a worker's part.
            work: its argument.
            result: class of the result.
            title: name of the work in events.
        """
        return cls(
            function=function,
            work=work,
            result=result,
            title=title,
            run_dir=spec.run_dir,
            workers=spec.workers,
            device=spec.device,
            max_failures=spec.max_failures,
        )

    def written(self, result: Result | None) -> str:
        """Return the result of worker 0 as JSON text.

        Raises:
            ValueError: it is of another class.
        """
        adapter = TypeAdapter(self.result)
        checked = adapter.validate_python(result)
        return json.dumps(adapter.dump_python(checked, mode="json", by_alias=True))

    def read(self, text: str | bytes) -> Result:
        """Return the result that worker 0 wrote.

        Raises:
            ValueError: the text is no such result.
        """
        return TypeAdapter(self.result).validate_json(text)


class Launcher(Protocol):
    """Starts workers and waits for them."""

    @property
    def is_elsewhere(self) -> bool:
        """Return whether workers run on other machines, whose memory is not known here."""
        ...

    def run(self, launch: Launch[Work, Result], report: Report) -> Result:
        """Run a function on every worker, and return worker 0's result.

        Args:
            launch: the function, its work and the workers.
            report: gets every event of worker 0, between `WorkersStarted` and `WorkersEnded`.

        Raises:
            PipelineError: the error that a worker raised.
        """
        ...


class ProcessLauncher:
    """Start workers as processes of this machine; a single worker is this process itself."""

    is_elsewhere = False

    def run(self, launch: Launch[Work, Result], report: Report) -> Result:
        """Run a function on every worker; the first death ends the run. See `Launcher.run`.

        Raises:
            BadRequest: several workers were to compute on GPUs, which gloo processes cannot.
        """
        if launch.workers > 1 and launch.device == "cuda":
            raise BadRequest(
                f"device=cuda with workers={launch.workers} needs Ray or torchrun: pass a "
                "RayLauncher or a TorchrunLauncher, or ask for device=cpu or one worker"
            )
        launch.run_dir.mkdir(parents=True, exist_ok=True)
        report(WorkersStarted(launch.title))
        try:
            if launch.workers == 1:
                text = _run_here(launch, report)
            else:
                with following(launch.run_dir / PROGRESS, report):
                    text = run_on_workers(_run_in_process, launch.workers, launch)[0]
        finally:
            report(WorkersEnded(launch.title))
        return launch.read(text)


class TorchrunLauncher:
    """Start workers as processes of torchrun on this machine, each with a GPU of its own."""

    is_elsewhere = False

    def run(self, launch: Launch[Work, Result], report: Report) -> Result:
        """Run a function on every worker; the first death ends the run. See `Launcher.run`.

        Raises:
            DoesNotFit: device=cuda with more workers than this machine has GPUs.
        """
        backend = backend_of_machine(launch.workers, launch.device)
        launch.run_dir.mkdir(parents=True, exist_ok=True)
        launch = replace(launch, run_dir=launch.run_dir.resolve())
        report(WorkersStarted(launch.title))
        try:
            with tempfile.TemporaryDirectory(prefix="iak-torchrun-work-") as name:
                folder = Path(name)
                put_file(folder / torchrun.WORK, pickle.dumps((launch, backend)))
                try:
                    with following(launch.run_dir / PROGRESS, report):
                        run_with_torchrun(torchrun.__name__, [name], launch.workers)
                except PipelineError:
                    _raise_workers_error(folder)
                    raise
                return launch.read((folder / torchrun.RESULT).read_bytes())
        finally:
            report(WorkersEnded(launch.title))


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


def _run_here(launch: Launch[Work, Result], report: Report) -> str:
    """Run a function as the only worker, in this process; return its result as JSON."""
    write = line_writer(launch.run_dir / PROGRESS)
    lock = threading.Lock()  # a worker may report from several threads
    shown = summed(report)

    def both(event: Any) -> None:  # noqa: ANN401 - as `Report`
        write(event)
        with lock:
            shown(event)

    with _only_worker(launch.device) as worker:
        return launch.written(launch.function(worker, launch.work, both))


@contextmanager
def _only_worker(device: str) -> Iterator[Worker]:
    """Yield this process as a world of one; use the caller's process group where there is one."""
    if dist.is_initialized():
        yield current_worker()
        return
    threads = torch.get_num_threads()
    # One thread, as under Ray: threads that share a sum add in another order, and round otherwise.
    try:
        with process_group(0, 1, backend="gloo" if device == "cpu" else None, threads=1) as worker:
            yield worker
    finally:
        torch.set_num_threads(threads)


def _run_in_process(worker: Worker, launch: Launch[Work, Result]) -> str:
    """Run a function as one of several processes; worker 0's result is returned as JSON."""
    report = worker_report(launch.run_dir / PROGRESS, worker.rank)
    result = launch.function(worker, launch.work, report)
    return launch.written(result) if worker.rank == 0 else ""
