"""Use a Ray job server: connect, name a job after its command, follow it, return its exit code."""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from iak.jobs.progress import console
from iak.jobs.submitted import BEGIN, END
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.first_few import first_few

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_FAILED = 1
_POLL_S = 1.0
_NOT_YET = "No available agent"
_TRIES = 60
COMMAND, CODE = "iak_command", "iak_code"
"""Keys of a job's metadata: its words after `iak`, and a digest of the code that was sent."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job on the server that this project started."""

    id: str
    status: str
    command: str
    code: str
    """Digest of the code that was sent; empty where another program started the job."""
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Return whether the job has ended, in any way."""
        return self.status in _ENDED


def send_when_ready(send: Callable[[], str]) -> None:
    """Submit a job; repeat it for up to a minute while the head cannot start jobs yet.

    The server of a head that has just started answers before the agent that starts jobs
    (Ray 2.60: status 500, "No available agent to submit job, please try again later").

    Args:
        send: submits the job.

    Raises:
        PipelineError: there is no agent after a minute.
        RuntimeError: the server refuses the job.
    """
    for _ in range(_TRIES):
        try:
            send()
        except RuntimeError as error:
            if _NOT_YET not in str(error):
                raise
            time.sleep(_POLL_S)
        else:
            return
    raise PipelineError(
        f"the job server has had no agent that starts jobs for {_TRIES * _POLL_S:.0f} s. Look at "
        "the cluster's head, then submit again"
    )


def connect(address: str) -> "JobSubmissionClient":
    """Return the job server's client; Ray takes its token from the environment.

    Raises:
        PipelineError: no server answers, or it refuses the token.
    """
    parts = urlsplit(address)
    has_token = any(os.environ.get(name) for name in _TOKENS)
    if has_token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
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
        if name.startswith("ray."):  # Ray's client logs a line for each file that it packs
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with only_this_address():
            return JobSubmissionClient(address.rstrip("/"))
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        raise PipelineError(
            f"no Ray job server answers at {address}: {error}. Is it up, is the tunnel open, "
            "and is RAY_AUTH_TOKEN set where it needs one?"
        ) from error


def jobs_of(client: "JobSubmissionClient") -> list[Job]:
    """Return the jobs that this project submitted, newest first."""
    jobs = [_job(details) for details in client.list_jobs() if details.submission_id]
    iak_jobs = [job for job in jobs if job.command]
    return sorted(iak_jobs, key=lambda job: job.started or datetime.min.replace(tzinfo=UTC))[::-1]


def job_named(client: "JobSubmissionClient", name: str) -> Job:
    """Return the job with this id, or the only one whose id begins with it.

    Raises:
        BadRequest: no job has the name, or several begin with it.
    """
    jobs = jobs_of(client)
    if exact := [job for job in jobs if job.id == name]:
        return exact[0]
    matches = [job for job in jobs if job.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    listed = first_few([job.id for job in matches or jobs]) or "none"
    why = f"{len(matches)} jobs begin with" if matches else "no job is named"
    raise BadRequest(f"{why} {name!r}; there are {listed}. See them all with iak jobs list")


def submission_prefix(words: Sequence[str], files: Mapping[str, Path] | None = None) -> str:
    """Return the common prefix of the ids of all jobs with these words and these files."""
    total = hashlib.sha256(json.dumps(list(words)).encode())
    for name, file in sorted((files or {}).items()):
        total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return f"iak-{words[0]}-{total.hexdigest()[:12]}-"


def free_submission_id(prefix: str, jobs: Sequence[Job]) -> tuple[str, Job | None]:
    """Return the id for the next job with a prefix, and the job with that prefix that runs now.

    A second submission of the same words follows the job that runs. Ids end in a number that grows,
    because a server takes no id twice.

    Args:
        prefix: from `submission_prefix`.
        jobs: all jobs of the server.

    Returns:
        The id, and None where no such job runs.
    """
    same = [job for job in jobs if job.id.startswith(prefix)]
    running = next((job for job in same if not job.has_ended), None)
    attempts = [int(job.id.removeprefix(prefix)) for job in same]
    return f"{prefix}{max(attempts, default=0) + 1}", running


def follow(client: "JobSubmissionClient", address: str, job: str) -> None:
    """Show the job's output until it ends, without the documents in it.

    Raises:
        PipelineError: the connection broke; the job may still run.
    """
    try:
        asyncio.run(_show_output(client, job))
        while not _job(client.get_job_info(job)).has_ended:  # Ray may close the output before
            time.sleep(_POLL_S)
    except (RuntimeError, ConnectionError) as error:  # Ray raises either when a connection breaks
        raise PipelineError(
            f"the connection to {address} broke while job {job} ran: {error}. It may still run: "
            f"iak jobs logs {job} address={address}"
        ) from error


def exit_code(client: "JobSubmissionClient", job: str) -> int:
    """Return the job's own exit code, or 1 where it ended without one."""
    ended = _job(client.get_job_info(job))
    if ended.status == "SUCCEEDED":
        return 0
    console.print(f"the job ended as {ended.status}: {ended.message}", markup=False)
    return ended.exit_code or _FAILED


async def _show_output(client: "JobSubmissionClient", job: str) -> None:
    """Print a job's output line by line, without the documents between BEGIN and END."""
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


def _job(details: Any) -> Job:  # noqa: ANN401 - Ray's JobDetails
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        command=metadata.get(COMMAND, ""),
        code=metadata.get(CODE, ""),
        started=_instant(details.start_time),
        ended=_instant(details.end_time),
        exit_code=details.driver_exit_code,
        message=(details.message or "").partition("\n")[0],  # the job's output follows
    )


def _instant(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def only_this_address() -> Iterator[None]:
    """Hide the addresses in the environment: Ray would prefer them to the one it is given."""
    others = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(others)
