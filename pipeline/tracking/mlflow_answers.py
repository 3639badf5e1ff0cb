"""Define what is read of the answers of MLflow's REST API 2.0. Fields that nobody needs are left.

MLflow writes an empty list by leaving it out.
"""

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Any answer; one of which nothing is needed."""

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
    """What names a run."""

    run_id: str
    artifact_uri: str
    """Where its artefacts are; `mlflow-artifacts:/…` where the server itself takes them."""


class RunData(Answer):
    """What a run holds."""

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
