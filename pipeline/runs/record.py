"""Write the record of a run: its settings, its inputs, its machine and its results.

A run is identified by its settings and its inputs. Where the folder has a finished run with the
same ones, its results are verified and nothing is done. An interrupted run is resumed only with the
same settings and inputs. A folder without results or checkpoints may start any run.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from iak.pipeline.errors import (
    INTERRUPTED,
    NOTHING_TO_DO,
    BadRequest,
    Corrupt,
    PipelineError,
)
from iak.pipeline.events import Notice, PhaseEnded, PhaseStarted, Report, silent
from iak.pipeline.files import put_file
from iak.pipeline.first_few import first_few
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.lock import one_writer
from iak.pipeline.runs.inputs import Inputs, describe_changes, flattened
from iak.schemas.base import JsonObject, ResultSpec, Spec
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.manifest import sha256_of
from iak.schemas.plan import PlacementSpec
from iak.schemas.record import RECORD_FORMAT, SEALED_FROM, Machine, Output, RunRecord

RECORD = "record.json"
PARTS = "parts"
"""Folder of predictions that are not published yet."""
WORK = (
    "checkpoints",
    ".best",
    "trials",
    "tune.safetensors",
    "tune.previous.safetensors",
    "base",
    "bundles",
    "predictions",
    PARTS,
)
"""Checkpoints and results in a run folder: a later attempt resumes from them, or would mix them
with its own."""
_NOT_IDENTITY = ("run_dir", "max_failures", "hung_after_s", "min_workers", "if_busy")
"""Settings that change no result, and so are no part of a run's identity."""
_SETTINGS_SHOWN = 5
_PHASES = {
    "snapshot": "listing the log's files and counting rows",
    "encoding": "reading the pre-training rows for ids and numbers",
    "columns": "reading the columns of the base",
    "publish": "publishing the base",
    "predictions": "publishing the predictions",
    "metrics": "computing metrics",
}
"""Phase on the driver -> its description. Phases on workers are shown from their progress file."""
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "ray", "pyarrow", "numpy", "iak")


class AlreadyFinished(PipelineError):
    """The run folder holds a finished run of these settings and inputs, its results verified."""

    exit_code = NOTHING_TO_DO


@dataclass(slots=True)
class OpenRecord:
    """The record of a run while it works."""

    run_dir: Path
    record: RunRecord
    before: RunRecord | None = None
    """Record of the earlier attempt in the folder; None where there is none to resume."""
    may_differ: Collection[str] = ()
    """Settings and inputs that may differ when an unfinished run is resumed."""
    snapshot: LogSnapshot = field(default_factory=LogSnapshot)
    result: ResultSpec | None = None
    """What the job measured; None until it has."""
    outputs: dict[str, Output] = field(default_factory=dict)
    """Results of the run, by path below the run folder."""
    timings_s: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0
    report: Report = silent
    """Gets an event when a phase begins and ends."""
    is_written: bool = False
    """Whether `record.json` is this record. Until the inputs are known it may be an earlier one."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the run and report its beginning and end."""
        start = time.monotonic()
        try:
            with reported_phase(self.report, name, _PHASES.get(name, "")):
                yield
        finally:
            self.timings_s[name] = round(time.monotonic() - start, 3)

    def settle_inputs(self, inputs: Inputs) -> None:
        """Compare the run's inputs with those of an earlier attempt, and write them to the record.

        Call it as soon as the inputs are known, before anything that takes long.

        Raises:
            AlreadyFinished: the folder holds this very run, finished; its results are verified.
            BadRequest: the folder holds a run of other inputs.
            Corrupt: it is finished, and a result is not what the run wrote.
        """
        self.snapshot = inputs.snapshot
        if self.before is not None and self.before.inputs:
            self._compare(self.before, inputs)
        self.write(inputs=dict(inputs.digests), catalog=dict(inputs.catalog))

    def _compare(self, before: RunRecord, inputs: Inputs) -> None:
        """Return where the run may resume; raise as `settle_inputs` says where it may not."""
        is_finished = before.status == "finished"
        # A finished run belongs to exactly its inputs; a resumed one may read some others.
        changed = describe_changes(
            before, inputs, may_differ=() if is_finished else self.may_differ
        )
        listing = "\n".join(f"  {line}" for line in changed)
        if is_finished and changed:
            raise BadRequest(
                f"{_named(self.run_dir, before)} that read other inputs:\n{listing}\n"
                "Choose another --run-dir for these inputs; its results belong to the old ones"
            )
        if is_finished:
            # Imported here: it loads torch, which takes seconds and which readers do not need.
            from iak.pipeline.runs.outputs import verify_outputs

            verifying = "verifying the results of the finished run"
            with reported_phase(self.report, "verify", verifying, show_after_s=2.0):
                verify_outputs(self.run_dir, before.outputs)
            raise AlreadyFinished(
                f"{self.run_dir} is finished since {before.ended_at:%Y-%m-%d %H:%M} (UTC) under "
                "the same settings and inputs, and its results are unchanged; nothing "
                "was done. For a new run choose another --run-dir"
            )
        if changed and (work := work_left(self.run_dir)):
            raise BadRequest(
                f"{_named(self.run_dir, before)} that read other inputs:\n{listing}\n"
                f"It left {', '.join(work)}, which belong to the old ones. Choose another "
                "--run-dir for these inputs, or restore the old ones to resume it"
            )
        for line in changed:
            text = f"the earlier attempt left no results, so this one starts from scratch: {line}"
            self.report(Notice(text))

    def write(self, **changes: object) -> None:
        """Replace `record.json` with the present content."""
        filled = {
            "snapshot": self.snapshot,
            "result": self.result.as_json() if self.result else {},
            "timings_s": self.timings_s,
            **changes,
        }
        self.record = self.record.model_copy(update=filled | {"record_sha256": None})
        document = json.loads(self.record.model_dump_json())
        self.record = self.record.model_copy(update={"record_sha256": _digest(document)})
        put_file(self.run_dir / RECORD, self.record.model_dump_json(indent=1))
        self.is_written = True


@contextmanager
def reported_phase(
    report: Report, phase: str, description: str, *, detail: str = "", show_after_s: float = 0.0
) -> Iterator[None]:
    """Report that a phase begins and, when the block is left, that it ended."""
    report(PhaseStarted(phase, description, detail, show_after_s))
    try:
        yield
    finally:
        report(PhaseEnded(phase))


@contextmanager
def run_record(
    verb: str,
    spec: Spec,
    run_dir: Path,
    *,
    may_differ: Collection[str] = (),
    report: Report = silent,
) -> Iterator[OpenRecord]:
    """Open the run folder for this spec, and close its record however the run ends.

    The run names its inputs by `settle_inputs`. Until then the record of an earlier run stays.

    Args:
        verb: the verb that runs: `pretrain`, `finetune`, `evaluate`.
        spec: settings of the run.
        run_dir: the run folder; made where it is missing.
        may_differ: settings and inputs that may differ when an unfinished run is resumed.
        report: gets an event when a phase begins and ends.

    Raises:
        AlreadyFinished: the run finished before, under the same spec and on the same inputs.
        BadRequest: the folder belongs to another run.
        Busy: another process works in it.
        Corrupt: the folder's record was changed, or a result of a finished run.
    """
    with one_writer(run_dir, waits=getattr(spec, "if_busy", "leave") == "wait"):
        opened = _open(verb, spec, run_dir, may_differ)
        opened.report = report
        yield from _recorded(opened)


def _recorded(opened: OpenRecord) -> Iterator[OpenRecord]:
    """Write the record when the run begins and when it ends, however it ends."""
    # An earlier record with inputs stays until `settle_inputs` has compared them: it may be of a
    # finished run, which this one must not overwrite.
    if opened.before is None or not opened.before.inputs:
        opened.write()
    try:
        yield opened
    except BaseException as error:
        if opened.is_written:
            opened.write(**_ending(error), ended_at=now())
        raise
    assert opened.record.inputs, f"iak {opened.record.verb} must call settle_inputs"
    opened.write(
        status="finished",
        exit_code=opened.exit_code,
        outputs=opened.outputs,
        ended_at=now(),
    )


def _ending(error: BaseException) -> JsonObject:
    """Return the fields of the record for a run that ends with an error."""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted; run it again to resume"
        return {"status": "interrupted", "exit_code": INTERRUPTED, "error": message}
    code = error.exit_code if isinstance(error, PipelineError) else 1
    return {"status": "failed", "exit_code": code, "error": str(error)}


def _open(verb: str, spec: Spec, run_dir: Path, may_differ: Collection[str]) -> OpenRecord:
    """Return the record of a new attempt, compared with that of the attempt before it."""
    document = spec.model_dump(mode="json", by_alias=True)
    before, work = read_record(run_dir), work_left(run_dir)
    if before is None and work:
        raise BadRequest(
            f"{run_dir} holds {', '.join(work)}, but no {RECORD} to show of which run. Restore "
            "it from a copy, remove the folder, or choose another --run-dir"
        )
    # A request that was refused did nothing, so its settings may be corrected in the same folder.
    is_refused = before is not None and before.exit_code == BadRequest.exit_code
    resumed = None if is_refused and not work else before
    if resumed is not None:
        _check_same(resumed, verb, document, run_dir, may_differ)
    run_dir.mkdir(parents=True, exist_ok=True)
    record = RunRecord(
        verb=verb,
        status="running",
        spec=document,
        spec_digest=spec_digest(document),
        started_at=now(),
        commit=commit(),
        machine=machine(),
        versions=versions(),
        attempts=before.attempts + 1 if before else 1,
    )
    return OpenRecord(run_dir=run_dir, record=record, before=resumed, may_differ=may_differ)


def work_left(run_dir: Path) -> list[str]:
    """Return the names of checkpoints and results that earlier attempts left in a run folder."""
    return [name for name in WORK if _is_work(run_dir / name)]


def _is_work(path: Path) -> bool:
    """Return whether there is a file, or a folder with something in it that is not half written."""
    if path.is_dir():
        return any(not inside.name.startswith(".") for inside in path.iterdir())
    return path.exists()


def _check_same(
    before: RunRecord,
    verb: str,
    document: JsonObject,
    run_dir: Path,
    may_differ: Collection[str],
) -> None:
    """Refuse a folder that has a run of another verb or of other settings."""
    is_same = before.spec_digest == spec_digest(document)
    if before.status != "finished":
        is_same |= _fixed(before.spec, may_differ) == _fixed(document, may_differ)
    if before.verb != verb or not is_same:
        raise BadRequest(
            f"{run_dir} holds another run (iak {before.verb}, {before.status}, started "
            f"{before.started_at:%Y-%m-%d %H:%M}); {_difference(before, verb, document)}. "
            "Choose another --run-dir, or remove that one"
        )
    if before.status == "finished" and not before.inputs:
        raise AlreadyFinished(
            f"{run_dir} is finished since {before.ended_at:%Y-%m-%d %H:%M} (UTC) under these very "
            "settings; nothing was done. An earlier version wrote its record, which names no "
            "inputs and no results to compare. For a new run choose another --run-dir"
        )


def _named(run_dir: Path, before: RunRecord) -> str:
    """Return a clause about the run that a folder holds, for messages."""
    started = f"started {before.started_at:%Y-%m-%d %H:%M}"
    if before.status == "finished":
        return f"{run_dir} holds a finished iak {before.verb} ({started})"
    # This process has the folder's lock, so the process that wrote `running` is gone.
    status = "killed" if before.status == "running" else before.status
    return f"{run_dir} holds an unfinished iak {before.verb} ({status}, {started})"


def _difference(before: RunRecord, verb: str, document: JsonObject) -> str:
    """Return a text with the settings in which two requests differ, and both values of each."""
    if before.verb != verb:
        return f"this is iak {verb}"
    then, now = (dict(flattened(spec)) for spec in (before.spec, document))
    names = [n for n in (then | now) if n not in _NOT_IDENTITY and then.get(n) != now.get(n)]
    each = [f"{name} was {then.get(name)!r}, is {now.get(name)!r}" for name in names]
    return f"its settings differ: {first_few(each, _SETTINGS_SHOWN, between='; ')}"


def _fixed(document: JsonObject, may_differ: Collection[str]) -> str:
    """Return the SHA-256 of the settings that must be the same when a run is resumed."""
    return spec_digest({key: value for key, value in document.items() if key not in may_differ})


def read_record(run_dir: Path) -> RunRecord | None:
    """Return the record in a run folder, None where there is none.

    Raises:
        BadRequest: it is not a record, or another version's.
        Corrupt: it was changed after it was written.
    """
    path = run_dir / RECORD
    if not path.is_file():
        return None
    try:
        return run_record_of(json.loads(path.read_bytes()), path)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"{path} is not a record of a run: {error}. Restore it from a copy, or choose another "
            "--run-dir"
        ) from error


def run_record_of(document: object, where: Path) -> RunRecord:
    """Return a run record in the current format.

    Args:
        document: the document as JSON values.
        where: the file it was read from, for messages.

    Raises:
        Corrupt: it was changed after it was written.
        OtherFormat: another version wrote it.
        ValueError: it is not a run record.
    """
    current = current_document(
        document,
        kind="run record",
        current=RECORD_FORMAT,
        where=where,
        remedy="Choose another --run-dir",
        migrations={0: unchanged, 1: unchanged, 2: _nest_placement},
    )
    assert isinstance(document, dict), "current_document refuses anything else"
    check_unchanged(document, where)
    return RunRecord.model_validate(current)


def _nest_placement(document: JsonObject) -> JsonObject:
    """Migrate a record of format 2, whose settings of the placement are not below `placement`.

    The digest of the settings is computed again, so that the same command still finds this run.
    """
    spec = document.get("spec")
    flat = {
        name for name in PlacementSpec.model_fields if isinstance(spec, Mapping) and name in spec
    }
    if not isinstance(spec, Mapping) or not flat:
        return unchanged(document)
    nested = {name: value for name, value in spec.items() if name not in flat}
    nested["placement"] = {name: spec[name] for name in flat}
    return dict(document) | {"spec": nested, "spec_digest": spec_digest(nested)}


def check_unchanged(document: JsonObject, where: Path) -> None:
    """Compare a record with the digest in it; records of older formats carry none.

    Raises:
        Corrupt: it was changed after it was written.
    """
    if document.get("format", 0) < SEALED_FROM:
        return
    actual, claimed = _digest(document), document.get("record_sha256")
    if actual != claimed:
        raise Corrupt(
            f"{where} was changed after it was written: it says SHA-256 {claimed!s:.12}, its "
            f"content has {actual[:12]}. Restore it from a copy, or choose another --run-dir"
        )


def _digest(document: JsonObject) -> str:
    """Return the SHA-256 of a record without the field that holds it."""
    return sha256_of(document, without=frozenset({"record_sha256"}))


def spec_digest(document: JsonObject) -> str:
    """Return the SHA-256 of the settings, without the run folder."""
    kept = {k: v for k, v in document.items() if k not in _NOT_IDENTITY}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def commit() -> str | None:
    """Return the commit of this package's checkout, with `+` when files differ from it.

    None for an installed package, also where it lies inside the repository of another project.
    """
    here = Path(__file__).resolve().parents[2]  # the folder that holds pipeline/
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
    """Return the versions of Python and of the packages that the results depend on."""
    result = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def machine() -> Machine:
    """Return processor, cores and memory of the machine that drives the run."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        processor=_processor(),
        cores=os.cpu_count(),
        memory_gib=round(memory, 1),
        system=platform.platform(),
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def now() -> datetime:
    """Return the present moment, in whole seconds of UTC."""
    return datetime.now(UTC).replace(microsecond=0)
