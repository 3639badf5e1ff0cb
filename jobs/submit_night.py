"""Run a night on the cluster that its file names, and bring its record and page back."""

import os

from iak.jobs.progress import console
from iak.jobs.submit import Submission, checkout, submit
from iak.pipeline.deploy.paths import refuse_catalog_elsewhere, refuse_relative_paths
from iak.pipeline.runs.load import catalog_path
from iak.schemas.nightly import NightlySpec
from iak.schemas.nightly_job import NightlyRunSpec

_FILE = "nightly.toml"


def submit_night(spec: NightlyRunSpec, nights: NightlySpec) -> int:
    """Submit the night to the cluster's job server, and return its exit code.

    The file and its catalogue are sent with the code. Paths in the file are those of the cluster.

    Raises:
        BadRequest: a path in the file means nothing on another machine.
    """
    refuse_relative_paths(nights)
    refuse_catalog_elsewhere(nights, spec.file)
    files = {_FILE: spec.file}
    if nights.catalog.suffix == ".toml":
        files[nights.catalog.name] = catalog_path(spec.file.parent / nights.catalog)
    return submit(
        Submission(
            words=["nightly", "run", _FILE, "here=true", *_settings(spec)],
            address=nights.cluster,
            out=spec.out,
            project=checkout(None),
            files=files,
            environment=_environment(nights),
        )
    )


def _settings(spec: NightlyRunSpec) -> list[str]:
    """Return the settings of this one night as words; those that stay here are left out."""
    given = spec.model_dump(mode="json", exclude_defaults=True, exclude={"file", "out", "here"})
    return [f"{name}={value}" for name, value in given.items()]


def _environment(nights: NightlySpec) -> dict[str, str]:
    """Return the environment variables of the night, and show which of them are not set here."""
    if missing := [name for name in nights.allow if name not in os.environ]:
        console.print(
            f"not in this environment, so not sent: {', '.join(missing)}",
            markup=False,
            style="yellow",
        )
    return {name: os.environ[name] for name in nights.allow if name in os.environ}
