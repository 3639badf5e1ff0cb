"""Register a night's kernels as a version of a model, and move the aliases of the model.

The registry decides what serves (pipeline/registry). The aliases here say the same for those who
look at MLflow. After a rollback, `champion.py` lets them follow.
"""

from iak.pipeline.tracking.mlflow_answers import Answer, FoundVersions, OneVersion, RunInfo
from iak.pipeline.tracking.mlflow_server import MlflowServer, Refused
from iak.schemas.night import NightRecord
from iak.schemas.registry import ALIASES

_NO_ALIAS = "INVALID_PARAMETER_VALUE"
"""What MLflow 3.17 answers where a model has no such alias; one would expect
RESOURCE_DOES_NOT_EXIST, which it answers where there is no such model."""
_NIGHT = "iak.night"


def publish_version(server: MlflowServer, record: NightRecord, info: RunInfo) -> None:
    """Register the night's version, and give it `candidate`, and `champion` where it promoted.

    An alias that a newer night has stays there, so that an earlier night can be stored late.

    Args:
        server: the MLflow server, which has the night's run.
        record: of a night that tuned kernels.
        info: of the night's run: its id and the address of its artefacts.
    """
    try:
        server.post("registered-models/create", {"name": record.name}, Answer)
    except Refused as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _version(server, record, info)
    promoted = any(domain.outcome == "promoted" for domain in record.domains)
    for alias in ALIASES:
        if alias == "champion" and not promoted:
            continue
        if _is_free(server, record, alias):
            server.post(
                "registered-models/alias",
                {"name": record.name, "alias": alias, "version": version},
                Answer,
            )


def _version(server: MlflowServer, record: NightRecord, info: RunInfo) -> str:
    """Return the number of the night's version, which is made where there is none."""
    answer = server.get(
        "model-versions/search",
        FoundVersions,
        filter=f"name = '{record.name}' and run_id = '{info.run_id}'",
        max_results="1",
    )
    for version in answer.model_versions:
        return version.version
    made = {
        "name": record.name,
        # An address of the run: MLflow refuses a path of this machine as a source.
        "source": info.artifact_uri,
        "run_id": info.run_id,
        "tags": [{"key": _NIGHT, "value": record.night.isoformat()}],
    }
    return server.post("model-versions/create", made, OneVersion).model_version.version


def _is_free(server: MlflowServer, record: NightRecord, alias: str) -> bool:
    """Return whether no version of a newer night has an alias."""
    try:
        answer = server.get("registered-models/alias", OneVersion, name=record.name, alias=alias)
    except Refused as error:
        if error.code == _NO_ALIAS:
            return True
        raise
    tags = {tag.key: tag.value for tag in answer.model_version.tags}
    return tags.get(_NIGHT, "") <= record.night.isoformat()
