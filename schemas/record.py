"""What a run says about itself when it is over."""

from datetime import datetime
from typing import Any, Literal

from schemas.base import Spec


class RunRecord(Spec):
    """`record.json`: enough to know what ran, on what, and what came of it."""

    verb: str
    """The job."""
    status: Literal["running", "finished", "failed", "interrupted"]
    """How it ended."""
    exit_code: int | None = None
    """0 ok, 1 failed, 2 bad request, 3 does not fit, 4 some held, 5 some failed,
    6 nothing to do."""
    spec: dict[str, Any]
    """The resolved spec: file, command line and defaults merged."""
    spec_digest: str
    """SHA-256 of the spec without its run folder; a run is only resumed under the same spec."""
    started_at: datetime
    ended_at: datetime | None = None
    commit: str | None = None
    """Commit of the code, with `+` when the tree was changed."""
    machine: dict[str, Any] = {}
    """Processor, cores, memory, accelerator."""
    versions: dict[str, str] = {}
    snapshot: dict[str, Any] = {}
    """Exact files read, with rows and fingerprints, by split."""
    timings_s: dict[str, float] = {}
    """Seconds by phase."""
    result: dict[str, Any] = {}
    """What the job found."""
    error: str | None = None
    attempts: int = 1
    """Times the run was started, resumes included."""
