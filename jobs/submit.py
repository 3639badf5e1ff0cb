"""`iak submit`: run a verb on a Ray cluster, follow it, and end with its exit code.

The code of this project is sent along. Libraries must be on the cluster's machines. What the job
writes stays there, except its record and small documents beside it, which it prints at its end.
"""

import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from iak.jobs._packed import digest_of, pack, summary
from iak.jobs._progress import console
from iak.jobs.job_server import (
    CODE,
    COMMAND,
    Job,
    connect,
    exit_code,
    follow,
    free_submission_id,
    jobs_of,
    submission_prefix,
)
from iak.jobs.submitted import documents_in
from iak.jobs.verbs import VERBS, split_verb
from iak.pipeline.bench.sharding.baseline import benchmark_record_of
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.process import WORKER_ENVIRONMENT
from iak.pipeline.runs.record import run_record_of
from iak.schemas.job import SubmitSpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_NOT_SENT = ("submit", "doctor", "jobs list", "jobs logs", "jobs stop")
_INTERRUPTED = 130


def main(spec: SubmitSpec) -> int:
    """Submit the verb, follow its output, write its documents, and return its exit code.

    The same command submitted again while its job runs follows that job.
    """
    words = _words(spec.command)
    _check_verb(words)
    project = _project(spec)
    spec.out.mkdir(parents=True, exist_ok=True)
    client = connect(spec.address)
    job, is_ours = _start_or_attach(client, spec, words, project)
    try:
        follow(client, spec.address, job)
    except KeyboardInterrupt:
        if is_ours:
            client.stop_job(job)
        state = "was asked to stop" if is_ours else f"goes on; iak jobs stop {job} would stop it"
        console.print(f"job {job} {state}", markup=False)
        return _INTERRUPTED
    for path in keep_documents(client.get_job_logs(job), spec.out):
        console.print(f"fetched: {path}", markup=False)
    return exit_code(client, job)


def _start_or_attach(
    client: "JobSubmissionClient", spec: SubmitSpec, words: list[str], project: Path
) -> tuple[str, bool]:
    """Return the id of the job that runs these words, and whether this call started it."""
    prefix = submission_prefix(words)
    job, running = free_submission_id(prefix, jobs_of(client))
    with tempfile.TemporaryDirectory(prefix="iak-submit-") as packed:
        sent = pack(project, spec.include, Path(packed))
        code = digest_of(Path(packed))
        if running:
            return _attached(running, code)
        console.print(summary(sent, project), markup=False)
        try:
            client.submit_job(  # uploads the folder before it returns (Ray 2.60)
                entrypoint=shlex.join(["python", "-m", "iak.jobs.submitted", *words]),
                submission_id=job,
                metadata={COMMAND: shlex.join(words), CODE: code},
                runtime_env={"working_dir": packed, "env_vars": WORKER_ENVIRONMENT},
            )
        except RuntimeError:
            # Another submission of the same command came first: the server takes an id once.
            _, running = free_submission_id(prefix, jobs_of(client))
            if running is None:
                raise
            return _attached(running, code)
    console.print(f"job {job} on {spec.address}", markup=False)
    return job, True


def _attached(running: Job, code: str) -> tuple[str, bool]:
    console.print(f"job {running.id} runs this command already; following it", markup=False)
    if running.code != code:
        console.print("  it runs other code than this checkout's", markup=False)
    return running.id, False


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:  # a quotation without an end
        raise BadRequest(f"command={command!r} cannot be read as a shell would: {error}") from error


def _check_verb(words: list[str]) -> None:
    """Refuse a word that is not a verb, and a verb that only makes sense on this machine.

    Raises:
        BadRequest: names the verbs.
    """
    verb, _ = split_verb(words)
    if verb not in VERBS or verb in _NOT_SENT:
        known = ", ".join(name for name in VERBS if name not in _NOT_SENT)
        raise BadRequest(f"command={verb!r} is not a verb that can be submitted; there are {known}")


def _project(spec: SubmitSpec) -> Path:
    """Return the folder of code to send.

    Raises:
        BadRequest: the folder is not a checkout of this project.
    """
    folder = (spec.project or Path(__file__).resolve().parents[1]).resolve()
    if not all((folder / name).exists() for name in ("pyproject.toml", "jobs/cli.py")):
        raise BadRequest(
            f"{folder} is not a checkout of this project: no pyproject.toml and jobs/ in it. "
            "Name one with project="
        )
    return folder


def keep_documents(logs: str, out: Path) -> list[Path]:
    """Write the documents that the job printed.

    Raises:
        PipelineError: a document has a name that is not a file name, or is not a record.
    """
    written = []
    for name, text in documents_in(logs).items():
        if Path(name).name != name or name.startswith("."):
            raise PipelineError(
                f"the job printed a document named {name!r}, which is not a file name"
            )
        if name.endswith(".json"):
            read = run_record_of if name == "record.json" else benchmark_record_of
            try:
                read(json.loads(text), Path(name))
            except ValueError as error:
                raise PipelineError(f"the job's {name} is not a record: {error}") from error
        put_file(out / name, text)
        written.append(out / name)
    return written
