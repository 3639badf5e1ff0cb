"""Define what the verbs of `iak jobs` may be asked."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from iak.schemas.base import Spec, Value, not_empty
from iak.schemas.numbers import Count
from iak.schemas.paths import FileToWrite

ServerAddress = Annotated[str, Field(pattern=r"^https?://[^/@\s]+/?$")]
"""Address of a Ray job server. Its token comes from RAY_AUTH_TOKEN and is not a setting."""
JobName = Annotated[Value, AfterValidator(not_empty)]
"""Id of a job, or its beginning where no other job begins so."""
LOOPBACK: ServerAddress = "http://127.0.0.1:8265"


class JobsSpec(Spec):
    """What every verb of `iak jobs` takes."""

    model_config = ConfigDict(populate_by_name=True)

    address: ServerAddress = LOOPBACK
    """The cluster's job server. Its token is read from RAY_AUTH_TOKEN and is not a setting."""


class JobsListSpec(JobsSpec):
    """List the jobs that were submitted, newest first."""

    last: Count = 20
    """Jobs shown."""
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """Also write the jobs as JSON to this file."""


class JobsLogsSpec(JobsSpec):
    """Show what a job printed."""

    job: JobName
    """Its id, or how it begins."""
    follow: bool = False
    """Go on until the job ends, and end with its exit code."""


class JobsStopSpec(JobsSpec):
    """Ask a job to stop."""

    job: JobName
    """Its id, or how it begins."""
