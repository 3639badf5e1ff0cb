"""`iak <verb>`: find the verb, read its settings, run its job, end with an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iak.jobs.verbs import GROUPS, MOVED, VERBS, spec_class, split_verb, unknown_verb

if TYPE_CHECKING:
    from pydantic import BaseModel

    from iak.jobs.command import Command

    Start = Callable[[str, BaseModel], int]


_BAD_REQUEST, _INTERRUPTED = 2, 130
"""Exit codes of pipeline/errors.py, repeated here so that help imports nothing of the library."""


def main() -> None:
    """Run the command line's command, and exit with its code."""
    sys.exit(run(sys.argv[1:], start=_start_beside_workers))


def run(words: Sequence[str], *, start: Start | None = None) -> int:
    """Run one command, and return its exit code.

    Args:
        words: the words after `iak`.
        start: called with the verb and its spec; the verb's job when absent.
    """
    verb, rest = split_verb(words)
    try:
        if verb in VERBS and verb != "doctor":
            begin = start or _start
            return run_command(_command(verb), rest, lambda spec: begin(verb, spec))
        if refusal := _refusal(words, verb):
            print(f"error: {refusal}", file=sys.stderr)
            return _BAD_REQUEST
        return _show_verbs(words)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return _INTERRUPTED


def _refusal(words: Sequence[str], verb: str) -> str | None:
    """Return why words name no verb; None for `doctor`, options such as --help, and groups."""
    if verb in MOVED:
        return (
            f"iak {verb} is now `{MOVED[verb]}`, run in a checkout of the project: it measures the "
            "project itself, so it is not part of the installed package"
        )
    if not words or words[0].startswith("-") or words[0] in (*VERBS, *GROUPS):
        return None
    return unknown_verb(words[0])


def _show_verbs(words: Sequence[str]) -> int:
    """Show `--help`, `--version` or a group's verbs, or run `doctor`; return the exit code."""
    from cyclopts import CycloptsError

    from iak.jobs.help_pages import verbs_app

    try:
        code = verbs_app(_doctor)(list(words), exit_on_error=False)
    except CycloptsError:
        return _BAD_REQUEST
    return code if isinstance(code, int) else 0


def _doctor() -> int:
    """Check that torch, torchrec, fbgemm, CUDA, ray and pyarrow belong together."""
    code: int = importlib.import_module("iak.jobs.doctor").doctor()
    return code


def run_command(command: Command, words: Sequence[str], start: Callable[[BaseModel], int]) -> int:
    """Read a command's spec from its words, then start it.

    Args:
        command: the command to run.
        words: the words after its name.
        start: called with the spec; returns the exit code.

    Returns:
        The exit code; an error is printed, not raised.
    """
    from iak.jobs.command import read_command
    from iak.jobs.path_settings import check_paths, setting_of
    from iak.pipeline.errors import DoesNotFit, PipelineError
    from iak.schemas.base import redacted

    spec: BaseModel | None = None
    try:
        spec = read_command(command, words)
        if spec is None:
            return 0
        check_paths(spec)
        return start(spec)
    except PipelineError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:  # nothing that a setting could have named: show the traceback
            raise
        problem = f"{setting_of(spec, error.filename)}{error.filename}: {error.strerror or error}"
        print(f"error: {command.name}: {redacted(problem)}", file=sys.stderr)
        return PipelineError.exit_code
    except MemoryError as error:
        print(f"error: {command.name} ran out of memory: {error or 'no more'}", file=sys.stderr)
        return DoesNotFit.exit_code


def _start_beside_workers(verb: str, spec: BaseModel) -> int:
    """Start the server of a verb's workers, and call the verb's job while it starts.

    Only `main` does so, since the server lives as long as this process.
    """
    from iak.jobs.worker_server import prepare_workers
    from iak.schemas.job import DemoSpec, WorkersSpec

    if isinstance(spec, DemoSpec):
        prepare_workers(WorkersSpec(workers=spec.workers))
    elif isinstance(spec, WorkersSpec):
        prepare_workers(spec)
    return _start(verb, spec)


def _start(verb: str, spec: BaseModel) -> int:
    """Call a verb's job."""
    from iak.jobs.progress import announce, console

    # A verb whose result is a stream on standard output must be the only one that writes there.
    console.stderr = getattr(spec, "is_stream", False)
    with announce("loading libraries", after_s=2.0):  # torch and Ray, from a cold disk
        job = importlib.import_module(f"iak.jobs.{verb.partition(' ')[0]}")
    return int(job.main(spec))


def read_spec(verb: str, words: Sequence[str]) -> BaseModel | None:
    """Return a verb's frozen spec; None when help was asked for and given.

    Raises:
        BadRequest: the message names the setting, what was seen and what was expected.
    """
    from iak.jobs.command import read_command

    return read_command(_command(verb), words)


def _command(name: str) -> Command:
    """Return the command of a verb: its spec, help and files of settings."""
    from iak.jobs.command import Command

    verb = VERBS[name]
    group, _, last = name.rpartition(" ")
    folder = Path(__file__).parent / "configs" / "bench"
    is_bench = group == "bench"
    return Command(
        name=f"iak {name}",
        kind=spec_class(name),
        help=verb.help,
        example=verb.example,
        positional=verb.positional,
        files=(folder / f"{last}.toml",) if is_bench else (),
        smoke_files=(folder / "smoke" / f"{last}.toml",) if is_bench else (),
        presets="" if name == "check" else name,
    )


if __name__ == "__main__":
    main()
