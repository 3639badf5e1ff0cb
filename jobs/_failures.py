"""What becomes of an error on a worker: refused at once, or tried again and said aloud.

A lost peer, a lost connection or a failing disk may be gone at the next attempt. Any other error
comes again with the same rows and settings, so it ends the run at the first attempt. Each failing
worker leaves its traceback in the run folder; a success removes it.
"""

import contextlib
import json
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from iak.pipeline import errors
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import Report
from iak.pipeline.files import put_file
from iak.pipeline.process import GLOO_ERROR, is_lost_peer

REFUSED = "refused.json"
STARTED = "started.json"
_NO_MEMORY = re.compile("can't allocate memory|out of memory|cannot allocate memory", re.IGNORECASE)
_ERRORS = "worker-*.error.json"
UNSEEN = "worker-any.error.json"
"""What Ray says of workers that left no file of their own."""
_KILLED = "a worker ended without a word: killed, or out of memory"


def forget_failures(run_dir: Path) -> None:
    """Remove what earlier attempts left, before a run starts and after it succeeded."""
    for path in (run_dir / REFUSED, run_dir / STARTED, *run_dir.glob(_ERRORS)):
        path.unlink(missing_ok=True)


def is_worth_a_retry(error: Exception) -> bool:
    """Return whether another attempt may do without this error."""
    return is_lost_peer(error) or isinstance(error, OSError)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed.

    torch raises a class of its own on GPUs and a plain RuntimeError on CPUs (2.13); numpy and
    pyarrow raise MemoryErrors.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def keep_failure(run_dir: Path, rank: int, error: Exception) -> None:
    """Write what a worker died of, and refuse the run where it would die of it again.

    Args:
        run_dir: folder of the run.
        rank: of the worker.
        error: as it is being handled: the traceback is the current one.
    """
    if isinstance(error, PipelineError):
        refusal = {"kind": type(error).__name__, "message": str(error)}
        write_document(run_dir / REFUSED, refusal)
        return
    path = run_dir / f"worker-{rank}.error.json"
    sentence = f"{type(error).__name__}: {_first_line(error)}"
    write_document(path, {"error": sentence, "traceback": traceback.format_exc()})
    if is_out_of_memory(error):
        message = (
            f"worker {rank} ran out of memory: {_first_line(error)}. Take "
            "smaller batches (batch_rows, step_rows), smaller or fewer tables, or more workers, "
            f"which share the tables' rows. The traceback is in {path}"
        )
        write_document(run_dir / REFUSED, {"kind": "DoesNotFit", "message": message})
    elif not is_worth_a_retry(error):
        message = (
            f"worker {rank} failed with {sentence}\nThe same rows and settings would fail again, "
            f"so nothing was tried a second time. The traceback is in {path}"
        )
        write_document(run_dir / REFUSED, {"kind": "PipelineError", "message": message})


def _first_line(error: Exception) -> str:
    """Return what an error says, without the call stack that torch appends to it."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def is_refused(run_dir: Path) -> bool:
    """Return whether a worker refused to go on."""
    return (run_dir / REFUSED).exists()


def raise_refusal(run_dir: Path) -> None:
    """Raise what a worker refused, as its own kind; do nothing where none did."""
    path = run_dir / REFUSED
    if path.exists():
        refusal = json.loads(path.read_text())
        kind = getattr(errors, refusal["kind"], PipelineError)
        raise kind(refusal["message"])


def announce_restart(run_dir: Path, report: Report) -> None:
    """Report a restart with its cause; the first attempt only leaves its mark."""
    path = run_dir / STARTED
    attempt = json.loads(path.read_text())["attempt"] + 1 if path.exists() else 1
    write_document(path, {"attempt": attempt})
    if attempt > 1:
        report({"event": "restarted", "attempt": attempt, "cause": cause_of_failure(run_dir)})
    for stale in run_dir.glob(_ERRORS):
        stale.unlink(missing_ok=True)


def cause_of_failure(run_dir: Path) -> str:
    """Return why the attempt before ended, in a line: the first error that is no lost peer."""
    errors_seen = [document["error"] for document in _failures(run_dir)]
    own = [line for line in errors_seen if GLOO_ERROR.search(line) is None]
    return own[0] if own else _KILLED


def story_without_words(run_dir: Path, failure: Exception) -> str:
    """Return what to say of workers that left no error: a sentence, and the file with the rest.

    Args:
        run_dir: folder of the run.
        failure: what Ray says of it, in many lines.
    """
    path = run_dir / UNSEEN
    write_document(path, {"error": _KILLED, "traceback": str(failure)})
    return f"training failed on the workers: {_KILLED}. All that Ray says of it is in {path}"


def tracebacks(run_dir: Path) -> list[Path]:
    """Return the files in which workers left their tracebacks."""
    return sorted(run_dir.glob(_ERRORS))


def _failures(run_dir: Path) -> Iterator[Mapping[str, str]]:
    for path in tracebacks(run_dir):
        with contextlib.suppress(OSError, ValueError):
            yield json.loads(path.read_text())


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file at once; workers of one run may write it at the same time."""
    put_file(path, json.dumps(document))
