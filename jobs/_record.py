"""The record of a run: what was asked, on what it ran, what came of it; written from first to last.

A run folder that holds a finished record is left alone; one that was interrupted is resumed aloud,
under the same spec only. One whose request was refused holds nothing, and may be asked anything.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs._progress import announce
from pipeline.errors import BadRequest, PipelineError
from pipeline.files import put_file
from pipeline.formats import first_format
from pipeline.lock import one_writer
from schemas.base import Spec
from schemas.record import RunRecord

RECORD = "record.json"
NOTHING_TO_DO = 6
INTERRUPTED = 130
_ANYWHERE = ("run_dir", "max_failures", "if_busy")
"""Settings that do not belong to what a run is."""
_SETTINGS_SHOWN = 5
_ANNOUNCED = {
    "snapshot": "listing the log's files and counting rows",
    "encoding": "reading the pre-training rows for ids and numbers",
    "publish": "publishing the base",
    "metrics": "computing metrics",
}
"""Phases of a job on the driver; those on workers are followed by their progress file."""
_SHOWN = ("torch", "torchrec", "fbgemm-gpu", "ray", "pyarrow", "numpy", "iak")


class AlreadyFinished(PipelineError):
    """The run folder holds a finished run of this spec."""

    exit_code = NOTHING_TO_DO


@dataclass(slots=True)
class OpenRecord:
    """A record that is still being filled."""

    run_dir: Path
    record: RunRecord
    snapshot: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0
    is_resumed: bool = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase, and announce it where nothing else shows that it goes on."""
        start = time.monotonic()
        told = _ANNOUNCED.get(name)
        try:
            with announce(told) if told else nullcontext():
                yield
        finally:
            self.timings_s[name] = round(time.monotonic() - start, 3)

    def write(self, **changes: object) -> None:
        """Replace `record.json` with what is known now."""
        filled = {
            "snapshot": self.snapshot,
            "result": self.result,
            "timings_s": self.timings_s,
            **changes,
        }
        self.record = self.record.model_copy(update=filled)
        put_file(self.run_dir / RECORD, self.record.model_dump_json(indent=1))


@contextmanager
def run_record(
    verb: str, spec: Spec, run_dir: Path, *, may_move: Collection[str] = ()
) -> Iterator[OpenRecord]:
    """Open the run folder for this spec, and close its record whatever happens.

    Args:
        verb: the job.
        spec: what is asked.
        run_dir: where.
        may_move: settings that may be others when an unfinished run is resumed.

    Raises:
        AlreadyFinished: it finished before, under the same spec.
        BadRequest: the folder belongs to another run.
        Busy: another process works in it.
    """
    with one_writer(run_dir, waits=getattr(spec, "if_busy", "leave") == "wait"):
        yield from _recorded(_open(verb, spec, run_dir, may_move))


def _recorded(opened: OpenRecord) -> Iterator[OpenRecord]:
    """Write the record when the run begins and when it ends, however it ends."""
    opened.write()
    try:
        yield opened
    except KeyboardInterrupt:
        opened.write(
            status="interrupted",
            exit_code=INTERRUPTED,
            ended_at=_now(),
            error="interrupted; run it again to resume",
        )
        raise
    except BaseException as error:
        code = error.exit_code if isinstance(error, PipelineError) else 1
        opened.write(status="failed", exit_code=code, ended_at=_now(), error=str(error))
        raise
    opened.write(status="finished", exit_code=opened.exit_code, ended_at=_now())


def _open(verb: str, spec: Spec, run_dir: Path, may_move: Collection[str]) -> OpenRecord:
    document = spec.model_dump(mode="json", by_alias=True)
    digest = spec_digest(document)
    before = read_record(run_dir)
    if before is not None and before.exit_code != BadRequest.exit_code:
        _check_same(before, verb, document, run_dir, may_move)
    run_dir.mkdir(parents=True, exist_ok=True)
    record = RunRecord(
        verb=verb,
        status="running",
        spec=document,
        spec_digest=digest,
        started_at=_now(),
        commit=commit(),
        machine=machine(),
        versions=versions(),
        attempts=before.attempts + 1 if before else 1,
    )
    return OpenRecord(run_dir=run_dir, record=record, is_resumed=before is not None)


def _check_same(
    before: RunRecord, verb: str, document: dict[str, Any], run_dir: Path, may_move: Collection[str]
) -> None:
    is_same = before.spec_digest == spec_digest(document)
    if before.status != "finished":
        is_same |= _fixed(before.spec, may_move) == _fixed(document, may_move)
    if before.verb != verb or not is_same:
        raise BadRequest(
            f"{run_dir} holds another run (iak {before.verb}, {before.status}, started "
            f"{before.started_at:%Y-%m-%d %H:%M}); {_difference(before, verb, document)}. "
            "Choose another --run-dir, or remove that one"
        )
    if before.status == "finished":
        raise AlreadyFinished(
            f"{run_dir} is finished since {before.ended_at:%Y-%m-%d %H:%M} (UTC) under these very "
            "settings; nothing was done. For a new run choose another --run-dir"
        )


def _difference(before: RunRecord, verb: str, document: Mapping[str, Any]) -> str:
    """Say in which settings two requests differ, with both values of each."""
    if before.verb != verb:
        return f"this is iak {verb}"
    then, now = (dict(_settings(spec)) for spec in (before.spec, document))
    names = [n for n in (then | now) if n not in _ANYWHERE and then.get(n) != now.get(n)]
    shown = [f"{n} was {then.get(n)!r}, is {now.get(n)!r}" for n in names[:_SETTINGS_SHOWN]]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"its settings differ: {'; '.join(shown)}{more}"


def _settings(spec: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted name."""
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def _fixed(document: dict[str, Any], may_move: Collection[str]) -> str:
    """Digest of what a resumed run must be asked again."""
    return spec_digest({key: value for key, value in document.items() if key not in may_move})


def read_record(run_dir: Path) -> RunRecord | None:
    """The record in a run folder, None where there is none."""
    path = run_dir / RECORD
    if not path.is_file():
        return None
    try:
        return run_record_of(json.loads(path.read_bytes()), path)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{path} is no record of a run: {error}. Choose another --run-dir"
        ) from error


def run_record_of(document: Mapping[str, Any], where: Path) -> RunRecord:
    """Return a run record in the current format.

    Args:
        document: as it was read.
        where: the file it was read from, for messages.

    Raises:
        OtherFormat: another version wrote it.
        ValueError: it is no run record.
    """
    return first_format(
        RunRecord, document, kind="run record", where=where, mend="Choose another --run-dir"
    )


def spec_digest(document: dict[str, Any]) -> str:
    """SHA-256 of what was asked, wherever the run folder lies."""
    kept = {k: v for k, v in document.items() if k not in _ANYWHERE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def commit() -> str | None:
    """Return the commit of this package's own checkout, `+` appended when the tree was changed.

    An installed package has none: a repository that happens to surround it says nothing of it.
    """
    here = Path(__file__).resolve().parent.parent
    try:
        if Path(_git(here, "rev-parse", "--show-toplevel")).resolve() != here:
            return None
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    found = {"python": platform.python_version()}
    for name in _SHOWN:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and memory of the driver's machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
