"""Do one worker's part of an attempt at a run, under Ray or in a process of this machine.

Workers append their progress to `progress.jsonl` in the run folder, which the command reports as it
grows. Worker 0 leaves the result. `failures.py` decides whether an error on a worker ends the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from iak.jobs.failures import (
    announce_restart,
    cause_of_failure,
    forget_failures,
    keep_failure,
    message_without_error,
    raise_refusal,
    tracebacks,
)
from iak.pipeline.events import Report, StoresUsed, WorkersEnded, WorkersStarted
from iak.pipeline.files import put_file
from iak.pipeline.launcher import Launch, Result, Work
from iak.pipeline.process import Worker, wait_for_all
from iak.pipeline.progress import PROGRESS, following, worker_report
from iak.pipeline.repeated import Repeated
from iak.pipeline.storage.store_counter import OF_PROCESS
from iak.schemas.traffic import StoreTraffic

RESULT = "result.json"
_STORES_EVERY_S = 1.0
"""Seconds between two reports of what a worker exchanged with object stores."""


@contextmanager
def attempts_at(launch: Launch[Work, Result], report: Report) -> Iterator[None]:
    """Begin a run in its folder, and report its workers' start, end and progress between them."""
    forget_failures(launch.run_dir)
    (launch.run_dir / RESULT).unlink(missing_ok=True)
    report(WorkersStarted(launch.title))
    try:
        with following(launch.run_dir / PROGRESS, report):
            yield
    finally:
        report(WorkersEnded(launch.title))


def attempt_on(worker: Worker, launch: Launch[Work, Result]) -> None:
    """Do one worker's part of an attempt, and leave its result or its error in the run folder."""
    run_dir = launch.run_dir
    report = worker_report(run_dir / PROGRESS, worker.rank, worker.files)
    if worker.rank == 0:
        announce_restart(run_dir, report, workers=worker.world, files=worker.files)
    # Rank 0 reports and removes the errors of the last attempt. No rank may write a new one before
    # that is done.
    wait_for_all(worker.device)
    try:
        with _reporting_stores(report):
            result = launch.function(worker, launch.work, report)
    except Exception as error:
        for path in keep_failure(run_dir, worker.rank, error):
            worker.files.send(path)
        raise
    if worker.rank == 0:
        put_file(run_dir / RESULT, launch.written(result))
        worker.files.send(run_dir / RESULT)


@contextmanager
def _reporting_stores(report: Report) -> Iterator[None]:
    """Report what this worker exchanges with object stores, every second and at the end.

    So what a killed worker had exchanged is known too, but for its last second.
    """
    reports = Repeated("stores", partial(_report_stores, report))
    reports.start(_STORES_EVERY_S)
    try:
        yield
    finally:
        reports.stop()
        _report_stores(report)


def _report_stores(report: Report) -> None:
    """Report what this worker exchanged with object stores since the last call, if anything."""
    used = OF_PROCESS.take()
    if used != StoreTraffic():
        report(
            StoresUsed(
                objects_read=used.read.files,
                bytes_read=used.read.bytes,
                objects_written=used.written.files,
                bytes_written=used.written.bytes,
            )
        )


def result_of(launch: Launch[Work, Result]) -> Result:
    """Return what worker 0 left in the run folder after an attempt that succeeded.

    Raises:
        PipelineError: a worker ended the run, in the class of its error.
    """
    raise_refusal(launch.run_dir)
    result = launch.read((launch.run_dir / RESULT).read_bytes())
    forget_failures(launch.run_dir)
    return result


def failure_message(run_dir: Path, output: str) -> str:
    """Return a message with the error that ended the run.

    Args:
        run_dir: folder of the run.
        output: what the workers printed, or Ray's error. It is used where they left no error.

    Raises:
        PipelineError: a worker ended the run, in the class of its error.
    """
    raise_refusal(run_dir)
    files = tracebacks(run_dir)
    if not files:
        return message_without_error(run_dir, output)
    paths = ", ".join(map(str, files))
    return f"training failed on the workers: {cause_of_failure(run_dir)}\nTheir tracebacks: {paths}"
