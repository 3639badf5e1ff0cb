"""`iak submit`: run a verb on a Ray cluster, follow it, and end with its exit code.

The code of this project is sent too. Libraries must be installed on the cluster's machines. Results
stay there, except the record and small documents beside it, which the job prints at its end.
"""

import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from iak.jobs.job_server import (
    CODE,
    COMMAND,
    Job,
    connect,
    exit_code,
    follow,
    free_submission_id,
    jobs_of,
    send_when_ready,
    submission_prefix,
)
from iak.jobs.packing import digest_of, pack, summary
from iak.jobs.progress import console
from iak.jobs.submitted import documents_in
from iak.jobs.verbs import VERBS, split_verb
from iak.pipeline.bench.records import benchmark_record_of
from iak.pipeline.errors import INTERRUPTED, BadRequest, PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.fork_server import WORKER_ENVIRONMENT
from iak.pipeline.report.nights import RECORD
from iak.pipeline.report.pages import write_index
from iak.pipeline.runs.nightly_records import night_folder
from iak.pipeline.runs.record import run_record_of
from iak.pipeline.sealed import check_seal, parsed
from iak.schemas.job import SubmitSpec
from iak.schemas.night import NightRecord

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ONLY_HERE = ("submit", "doctor", "jobs list", "jobs logs", "jobs stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A command, the cluster on which it runs, and what is sent with it."""

    words: list[str]
    """The verb and its settings."""
    address: str
    """The cluster's job server."""
    out: Path
    """Folder for the documents that the job printed."""
    project: Path
    """Checkout whose code is sent."""
    include: tuple[str, ...] = ()
    """Files and folders of the checkout to send besides."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Name in the job's folder -> file of this machine, also outside the checkout."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the job. The cluster's dashboard shows their values."""


def main(spec: SubmitSpec) -> int:
    """Submit the verb, follow its output, write its documents, and return its exit code.

    The same command submitted again while its job runs follows that job.
    """
    words = _words(spec.command)
    _check_verb(words)
    return submit(
        Submission(
            words=words,
            address=spec.address,
            out=spec.out,
            project=checkout(spec.project),
            include=spec.include,
        )
    )


def submit(asked: Submission) -> int:
    """Start the job or find the one that runs already, follow it, and return its exit code."""
    asked.out.mkdir(parents=True, exist_ok=True)
    client = connect(asked.address)
    job, is_own = _start_or_attach(client, asked)
    try:
        follow(client, asked.address, job)
    except KeyboardInterrupt:
        if is_own:
            client.stop_job(job)
        state = "was asked to stop" if is_own else f"goes on; iak jobs stop {job} would stop it"
        console.print(f"job {job} {state}", markup=False)
        return INTERRUPTED
    for path in keep_documents(client.get_job_logs(job), asked.out):
        console.print(f"fetched: {path}", markup=False)
    return exit_code(client, job)


def _start_or_attach(client: "JobSubmissionClient", asked: Submission) -> tuple[str, bool]:
    """Return the id of the job that runs these words, and whether this call started it."""
    prefix = submission_prefix(asked.words, asked.files)
    job, running = free_submission_id(prefix, jobs_of(client))
    with tempfile.TemporaryDirectory(prefix="iak-submit-") as packed:
        sent = pack(asked.project, asked.include, Path(packed), files=asked.files)
        code = digest_of(Path(packed))
        if running:
            return _attached(running, code)
        console.print(summary(sent, asked.project), markup=False)
        try:
            send_when_ready(
                partial(
                    client.submit_job,  # uploads the folder before it returns (Ray 2.60)
                    entrypoint=shlex.join(["python", "-m", "iak.jobs.submitted", *asked.words]),
                    submission_id=job,
                    metadata={COMMAND: shlex.join(asked.words), CODE: code},
                    runtime_env={
                        "working_dir": packed,
                        "env_vars": {**WORKER_ENVIRONMENT, **asked.environment},
                    },
                )
            )
        except RuntimeError:
            # Another submission of the same command came first: the server takes an id once.
            _, running = free_submission_id(prefix, jobs_of(client))
            if running is None:
                raise
            return _attached(running, code)
    console.print(f"job {job} on {asked.address}", markup=False)
    return job, True


def _attached(running: Job, code: str) -> tuple[str, bool]:
    """Show that a job runs this command already; return its id, and False."""
    console.print(f"job {running.id} runs this command already; following it", markup=False)
    if running.code != code:
        console.print("  its code differs from this checkout's", markup=False)
    return running.id, False


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:  # a quotation without an end
        raise BadRequest(f"command={command!r} cannot be read as a shell would: {error}") from error


def _check_verb(words: list[str]) -> None:
    """Refuse a word that is not a verb, and a verb that is meaningful only on this machine.

    Raises:
        BadRequest: names the verbs.
    """
    verb, _ = split_verb(words)
    if verb not in VERBS or verb in _ONLY_HERE:
        known = ", ".join(name for name in VERBS if name not in _ONLY_HERE)
        raise BadRequest(f"command={verb!r} is not a verb that can be submitted; there are {known}")


def checkout(project: Path | None) -> Path:
    """Return the folder of code to send: the one named, or the one that this code runs from.

    Raises:
        BadRequest: the folder is not a checkout of this project.
    """
    folder = (project or Path(__file__).resolve().parents[1]).resolve()
    if not all((folder / name).exists() for name in ("pyproject.toml", "jobs/cli.py")):
        raise BadRequest(
            f"{folder} is not a checkout of this project: no pyproject.toml and jobs/ in it. "
            "Name one with project="
        )
    return folder


def keep_documents(logs: str, out: Path) -> list[Path]:
    """Write the documents that the job printed; those of a night into a folder of its own.

    Raises:
        PipelineError: a document has a name that is not a file name, or is not a record.
    """
    documents = documents_in(logs)
    for name, text in documents.items():
        _check_document(name, text)
    if RECORD in documents:
        night = NightRecord.model_validate_json(documents[RECORD])
        out = night_folder(out, night)
        out.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        put_file(out / name, text)
    if RECORD in documents:
        write_index(out.parent)
    return [out / name for name in documents]


def _check_document(name: str, text: str) -> None:
    """Refuse a document that would lie outside the folder, or whose digest does not match."""
    if Path(name).name != name or name.startswith("."):
        raise PipelineError(f"the job printed a document named {name!r}, which is not a file name")
    if not name.endswith(".json"):
        return
    try:
        if name == RECORD:
            check_seal(parsed(text.encode()), text.encode())
        elif name == "record.json":
            run_record_of(json.loads(text), Path(name))
        else:
            benchmark_record_of(json.loads(text), Path(name))
    except ValueError as error:
        raise PipelineError(f"the job's {name} is not a record: {error}") from error
