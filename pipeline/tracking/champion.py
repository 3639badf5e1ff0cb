"""Move the alias `champion` of an MLflow model after a rollback of the registry.

A version of the model is a night, while a rollback moves single domains. So `champion` is the
version of the newest night of which any bundle serves. Where a rollback
takes the last bundle of a night back, the alias moves to the newest night that still serves. Where
none does, the alias is removed.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from iak.pipeline.tracking.mlflow_answers import Answer, FoundRuns, FoundVersions
from iak.pipeline.tracking.mlflow_run import ID_TAG, find_experiment
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.schemas.registry import Alias

_CHAMPION: Alias = "champion"
_NIGHT = re.compile(r"\d{4}-\d\d-\d\d-([0-9a-f]{16})")
"""Folder of a night: its date and its id."""


def night_of(run: str) -> str | None:
    """Return the folder's name of the night that a run folder belongs to; None of another run."""
    name = Path(run).parent.name
    return name if _NIGHT.fullmatch(name) else None


def follow_registry(server: MlflowServer, service: str, serving: Iterable[str]) -> str:
    """Move the model's alias to the newest night that serves, and return a sentence about it.

    Args:
        server: the MLflow server.
        service: name of the service: of its experiment, and of its model.
        serving: folder names of the nights of which any bundle serves, as `night_of` returns them.

    Raises:
        Unreachable: the server does not answer, or refuses.
    """
    experiment = find_experiment(server, service)
    if experiment is None:
        return f"{server.address} keeps no night of {service}, so no alias moved"
    # The name begins with the date, so that the newest night comes first.
    for night in sorted(set(serving), reverse=True):
        version = _version_of(server, service, experiment, night)
        if version is not None:
            alias = {"name": service, "alias": _CHAMPION, "version": version}
            server.post("registered-models/alias", alias, Answer)
            return f"{_CHAMPION} of {service} in MLflow is version {version}, the night {night}"
    # MLflow 3.17 answers 200 where the model has no such alias.
    server.delete("registered-models/alias", {"name": service, "alias": _CHAMPION}, Answer)
    return f"{service} in MLflow has no {_CHAMPION}: no bundle of a night that it keeps serves"


def _version_of(server: MlflowServer, service: str, experiment: str, night: str) -> str | None:
    """Return the number of a night's version; None where the server does not keep it."""
    found = _NIGHT.fullmatch(night)
    if found is None:
        return None
    wanted = {"experiment_ids": [experiment], "filter": f"tags.`{ID_TAG}` = '{found[1]}'"}
    for run in server.post("runs/search", wanted, FoundRuns).runs:
        versions = server.get(
            "model-versions/search",
            FoundVersions,
            filter=f"name = '{service}' and run_id = '{run.info.run_id}'",
        )
        for version in versions.model_versions:
            return version.version
    return None
