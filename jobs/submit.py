"""`iak submit`: run a verb on a Ray cluster, follow it, and end with its exit code.

The code of this project is sent along. Libraries must be on the cluster's machines. What the job
writes stays there, except its record and small documents beside it, which it prints at its end.
"""

import asyncio
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from iak.jobs._packed import pack, summary
from iak.jobs._progress import console
from iak.jobs.submitted import BEGIN, END, documents_in
from iak.jobs.verbs import VERBS, split_verb
from iak.pipeline.bench.sharding.baseline import benchmark_record_of
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.process import WORKER_ENVIRONMENT
from iak.pipeline.runs.record import run_record_of
from iak.schemas.job import SubmitSpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_NOT_SENT = ("submit", "doctor")
_FAILED, _INTERRUPTED = 1, 130


def main(spec: SubmitSpec) -> int:
    """Submit the verb, follow its output, write its documents, and return its exit code."""
    words = _words(spec.command)
    _check_verb(words)
    project = _project(spec)
    spec.out.mkdir(parents=True, exist_ok=True)
    client = connected(spec.address)
    with tempfile.TemporaryDirectory(prefix="iak-submit-") as packed:
        sent = pack(project, spec.include, Path(packed))
        console.print(summary(sent, project), markup=False)
        job = client.submit_job(  # uploads the folder before it returns (Ray 2.60)
            entrypoint=shlex.join(["python", "-m", "iak.jobs.submitted", *words]),
            runtime_env={"working_dir": packed, "env_vars": WORKER_ENVIRONMENT},
        )
    console.print(f"job {job} on {spec.address}", markup=False)
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        client.stop_job(job)
        console.print(f"job {job} was asked to stop", markup=False)
        return _INTERRUPTED
    except RuntimeError as error:  # Ray's word for a connection that broke
        raise PipelineError(
            f"the connection to {spec.address} broke while job {job} ran: {error}. It may still "
            f"run: ray job logs --address {spec.address} {job}"
        ) from error
    written = keep_documents(client.get_job_logs(job), spec.out)
    for path in written:
        console.print(f"fetched: {path}", markup=False)
    return _exit_code(client.get_job_info(job))


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


def connected(address: str) -> "JobSubmissionClient":
    """Return the job server's client; Ray takes its token from the environment.

    Raises:
        PipelineError: no server answers, or it refuses the token.
    """
    parts = urlsplit(address)
    has_token = any(os.environ.get(name) for name in _TOKENS)
    if has_token and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        console.print(
            f"warning: the token goes to {parts.hostname} unencrypted; "
            "https:// or a tunnel to 127.0.0.1 would hide it",
            markup=False,
        )
    if has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError  # Ray reads its mode when it is imported
    from ray.job_submission import JobSubmissionClient

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("ray."):  # each file that is packed is a line of its log
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _only_this_address():
            return JobSubmissionClient(address.rstrip("/"))
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise PipelineError(
            f"no Ray job server answers at {address}: {error}. Is it up, is the tunnel open, "
            "and is RAY_AUTH_TOKEN set where it needs one?"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _only_this_address() -> Iterator[None]:
    """Hide the addresses in the environment, which Ray would take before the one it is given."""
    others = {name: os.environ.pop(name) for name in _ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(others)


async def _follow(client: "JobSubmissionClient", job: str) -> None:
    """Show the job's output, without its documents."""
    line_begun, is_inside = "", False
    async for chunk in client.tail_job_logs(job):
        line_begun += chunk
        *lines, line_begun = line_begun.split("\n")
        for line in lines:
            is_inside = line.startswith(BEGIN) or (is_inside and line != END)
            if not is_inside and line != END:
                console.print(line, markup=False)
    if line_begun and not is_inside and line_begun != END:
        console.print(line_begun, markup=False)


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


def _exit_code(details: Any) -> int:  # noqa: ANN401 - Ray's JobDetails
    """Return the job's own exit code, or 1 where it ended without one."""
    if details.status == "SUCCEEDED":
        return 0
    message = (details.message or "").partition("\n")[0]  # its logs follow, which were shown
    console.print(f"the job ended as {details.status}: {message}", markup=False)
    return details.driver_exit_code or _FAILED
