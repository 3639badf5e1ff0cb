from iak.pipeline.tracking.mlflow_answers import RunInfo
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.pipeline.tracking.model_version import publish_version
from tests.nights import some_nights

OLDER, NEWER = some_nights(2, domains=2)


def publish(mlflow, record):
    info = RunInfo(run_id=record.id, artifact_uri=f"mlflow-artifacts:/1/{record.id}/artifacts")
    publish_version(MlflowServer(mlflow.address, backoff_s=0), record, info)


def without_promotion(record):
    held = [domain.model_copy(update={"outcome": "held"}) for domain in record.domains]
    return record.model_copy(update={"domains": held})


def test_both_aliases_move_with_each_night(mlflow):
    publish(mlflow, OLDER)
    assert mlflow.aliases == {"champion": "1", "candidate": "1"}
    publish(mlflow, NEWER)
    assert mlflow.aliases == {"champion": "2", "candidate": "2"}
    assert mlflow.models == ["shop"]
    assert mlflow.versions[1]["source"] == f"mlflow-artifacts:/1/{NEWER.id}/artifacts"


def test_a_night_that_promoted_nothing_is_a_candidate_alone(mlflow):
    publish(mlflow, OLDER)
    publish(mlflow, without_promotion(NEWER))
    assert mlflow.aliases == {"champion": "1", "candidate": "2"}


def test_a_night_of_the_past_takes_no_alias_from_a_newer_one(mlflow):
    publish(mlflow, NEWER)
    publish(mlflow, OLDER)
    assert mlflow.aliases == {"champion": "1", "candidate": "1"}
    assert len(mlflow.versions) == 2


def test_a_night_has_one_version(mlflow):
    publish(mlflow, OLDER)
    publish(mlflow, OLDER)
    assert len(mlflow.versions) == 1
