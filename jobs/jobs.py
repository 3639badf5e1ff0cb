"""`iak jobs …`: list the jobs submitted to a Ray cluster, show what they print, stop them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from iak.jobs.job_server import Job, connect, exit_code, follow, job_named, jobs_of
from iak.jobs.progress import console
from iak.jobs.submitted import without_documents
from iak.jobs.tables import show_table
from iak.pipeline.errors import NOTHING_TO_DO
from iak.pipeline.files import put_output
from iak.schemas.job_server import JobsListSpec, JobsLogsSpec, JobsSpec, JobsStopSpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def main(spec: JobsSpec) -> int:
    """Run the verb at the job server of `address`."""
    verbs: dict[type[JobsSpec], Callable[[JobSubmissionClient, Any], int]] = {
        JobsListSpec: list_jobs,
        JobsLogsSpec: show_logs,
        JobsStopSpec: stop,
    }
    return verbs[type(spec)](connect(spec.address), spec)


def list_jobs(client: "JobSubmissionClient", spec: JobsListSpec) -> int:
    """Show the newest jobs, those that run among them."""
    jobs = jobs_of(client)[: spec.last]
    now = datetime.now(UTC)
    show_table(
        f"jobs at {spec.address}",
        ("job", "state", "started", "minutes", "code", "command"),
        [
            (
                job.id,
                job.status.lower(),
                f"{job.started:%Y-%m-%d %H:%M}" if job.started else "-",
                _minutes(job, now),
                "-" if job.exit_code is None else str(job.exit_code),
                job.command,
            )
            for job in jobs
        ],
        text=("state",),
    )
    if spec.json_out:
        put_output(spec.json_out, json.dumps([_document(job) for job in jobs], indent=1))
    return 0


def show_logs(client: "JobSubmissionClient", spec: JobsLogsSpec) -> int:
    """Show what a job printed, and with `follow` what it prints until it ends."""
    job = job_named(client, spec.job)
    if spec.follow and not job.has_ended:
        follow(client, spec.address, job.id)
        return exit_code(client, job.id)
    console.print(without_documents(client.get_job_logs(job.id)), markup=False, end="")
    return 0


def stop(client: "JobSubmissionClient", spec: JobsStopSpec) -> int:
    """Ask a job to stop. It keeps its checkpoints, and the same command resumes from them."""
    job = job_named(client, spec.job)
    if job.has_ended:
        console.print(f"{job.id} has ended already: {job.status.lower()}", markup=False)
        return NOTHING_TO_DO
    client.stop_job(job.id)
    console.print(f"{job.id} was asked to stop: iak {job.command}", markup=False)
    return 0


def _minutes(job: Job, now: datetime) -> str:
    if job.started is None:
        return "-"
    return f"{((job.ended or now) - job.started).total_seconds() / 60:.1f}"


def _document(job: Job) -> dict[str, str | int | None]:
    return {
        "id": job.id,
        "status": job.status,
        "command": job.command,
        "started": job.started.isoformat() if job.started else None,
        "ended": job.ended.isoformat() if job.ended else None,
        "exit_code": job.exit_code,
        "message": job.message,
    }
