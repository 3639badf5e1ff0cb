"""Decide after an error on a worker whether the run ends at once, or is tried again.

A lost peer, a lost connection or a failing disk may be repaired by the next attempt. Any other
error would come again with the same rows and settings, so it ends the run at the first attempt.
Each failing worker writes its traceback into the run folder. A success removes these files.
"""

import contextlib
import json
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from iak.pipeline import errors
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import Report, WorkersRestarted
from iak.pipeline.files import put_file, remove_path
from iak.pipeline.process import GLOO_ERROR, is_lost_peer
from iak.pipeline.run_files import SHARED_DISK, RunFiles
from iak.schemas.base import JsonObject

REFUSED = "refused.json"
STARTED = "started.json"
_NO_MEMORY = re.compile("can't allocate memory|out of memory|cannot allocate memory", re.IGNORECASE)
_ERRORS = "worker-*.error.json"
UNSEEN = "worker-any.error.json"
"""File with the output of workers that left no error file of their own."""
KILLED = (
    "a worker ended without an error: it was killed, ran out of memory, or gave no answer for "
    "hung_after_s"
)


def forget_failures(run_dir: Path) -> None:
    """Remove the files of earlier attempts, before a run starts and after it succeeded."""
    for path in (run_dir / REFUSED, run_dir / STARTED, *run_dir.glob(_ERRORS)):
        path.unlink(missing_ok=True)


def is_worth_a_retry(error: Exception) -> bool:
    """Return whether another attempt may succeed after this error."""
    return is_lost_peer(error) or isinstance(error, OSError)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed.

    torch raises a class of its own on GPUs and a plain RuntimeError on CPUs (2.13); numpy and
    pyarrow raise MemoryErrors.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def keep_failure(run_dir: Path, rank: int, error: Exception) -> list[Path]:
    """Write a worker's error to the run folder, and end the run where a retry would fail too.

    Args:
        run_dir: folder of the run.
        rank: rank of the worker.
        error: the error that is being handled, so that the current traceback is its own.

    Returns:
        The files that it wrote.
    """
    path, refused = run_dir / f"worker-{rank}.error.json", run_dir / REFUSED
    if isinstance(error, PipelineError):  # its message is for the user, who needs no traceback
        refusal = {"kind": type(error).__name__, "message": str(error)}
        write_document(refused, refusal)
        return [refused]
    sentence = f"{type(error).__name__}: {_first_line(error)}"
    write_document(path, {"error": sentence, "traceback": traceback.format_exc()})
    if is_out_of_memory(error):
        message = (
            f"worker {rank} ran out of memory: {_first_line(error)}. Take "
            "smaller batches (batch_rows, step_rows), smaller or fewer tables, or more workers, "
            f"which share the tables' rows. The traceback is in {path}"
        )
        write_document(refused, {"kind": "DoesNotFit", "message": message})
    elif not is_worth_a_retry(error):
        message = (
            f"worker {rank} failed with {sentence}\nThe same rows and settings would fail again, "
            f"so nothing was tried a second time. The traceback is in {path}"
        )
        write_document(refused, {"kind": "PipelineError", "message": message})
    return [path, refused] if refused.exists() else [path]


def _first_line(error: Exception) -> str:
    """Return the message of an error, without the call stack that torch appends to it."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def is_refused(run_dir: Path) -> bool:
    """Return whether a worker ended the run."""
    return (run_dir / REFUSED).exists()


def raise_refusal(run_dir: Path) -> None:
    """Raise the error with which a worker ended the run, in its own class, if one did."""
    path = run_dir / REFUSED
    if path.exists():
        refusal = json.loads(path.read_text())
        kind = getattr(errors, refusal["kind"], PipelineError)
        raise kind(refusal["message"])


def announce_restart(
    run_dir: Path, report: Report, *, workers: int, files: RunFiles = SHARED_DISK
) -> None:
    """Report a restart with its cause. The first attempt is only counted, in a file.

    Args:
        run_dir: folder of the run.
        report: gets the event.
        workers: number of workers of this attempt.
        files: the run's files, as this worker reaches them.
    """
    path = run_dir / STARTED
    last = json.loads(path.read_text()) if path.exists() else {"attempt": 0, "workers": workers}
    attempt = last["attempt"] + 1
    write_document(path, {"attempt": attempt, "workers": workers})
    files.send(path)
    if attempt > 1:
        cause = cause_of_failure(run_dir)
        if workers != last["workers"]:
            cause = f"the cluster now has room for {workers} workers, and had for {last['workers']}"
        report(WorkersRestarted(attempt, cause))
    for stale in run_dir.glob(_ERRORS):
        stale.unlink(missing_ok=True)
        files.call_on_driver(remove_path, stale)


def cause_of_failure(run_dir: Path) -> str:
    """Return why the last attempt ended, in a line: the first error that is not a lost peer."""
    lines = [document["error"] for document in _failures(run_dir)]
    # When one worker fails, its peers fail too, with gloo's errors: those are not the cause.
    own = [line for line in lines if GLOO_ERROR.search(line) is None]
    return own[0] if own else KILLED


def message_without_error(run_dir: Path, output: str) -> str:
    """Return a message about workers that left no error, and write what is known to a file.

    Args:
        run_dir: folder of the run.
        output: Ray's error or what the workers printed, which has many lines.
    """
    path = run_dir / UNSEEN
    write_document(path, {"error": KILLED, "traceback": output})
    return f"training failed on the workers: {KILLED}. All that is known of it is in {path}"


def tracebacks(run_dir: Path) -> list[Path]:
    """Return the files in which workers left their tracebacks."""
    return sorted(run_dir.glob(_ERRORS))


def _failures(run_dir: Path) -> Iterator[Mapping[str, str]]:
    for path in tracebacks(run_dir):
        with contextlib.suppress(OSError, ValueError):
            yield json.loads(path.read_text())


def write_document(path: Path, document: JsonObject) -> None:
    """Replace a JSON file atomically, since workers of one run may write it at the same time."""
    put_file(path, json.dumps(document))
