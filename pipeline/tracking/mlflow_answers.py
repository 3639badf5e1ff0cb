"""Define the fields that are read from the answers of MLflow's REST API 2.0.

MLflow leaves an empty list out of its answer, so every list has a default.
"""

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Any answer. Other fields are ignored."""

    model_config = ConfigDict(frozen=True)


class Pair(Answer):
    """A tag or a parameter."""

    key: str
    value: str = ""


class Experiment(Answer):
    """A group of runs."""

    experiment_id: str
    lifecycle_stage: str = "active"


class FoundExperiment(Answer):
    """Answer of `experiments/get-by-name`."""

    experiment: Experiment


class RunInfo(Answer):
    """The id of a run, and the address of its artefacts."""

    run_id: str
    artifact_uri: str
    """Address of its artefacts; `mlflow-artifacts:/…` where the server itself stores them."""


class RunData(Answer):
    """Parameters of a run."""

    params: list[Pair] = []


class Run(Answer):
    """A run."""

    info: RunInfo
    data: RunData = RunData()


class FoundRuns(Answer):
    """Answer of `runs/search`."""

    runs: list[Run] = []


class MadeRun(Answer):
    """Answer of `runs/create`."""

    run: Run


class ModelVersion(Answer):
    """A version of a registered model."""

    version: str
    tags: list[Pair] = []


class FoundVersions(Answer):
    """Answer of `model-versions/search`."""

    model_versions: list[ModelVersion] = []


class OneVersion(Answer):
    """Answer of `model-versions/create`, and of `registered-models/alias`."""

    model_version: ModelVersion


class Refusal(Answer):
    """Answer to a request that was refused."""

    error_code: str = ""
    message: str = "no message"
