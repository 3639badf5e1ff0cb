import pytest

from iak.pipeline.errors import Unreachable
from iak.pipeline.tracking.mlflow_run import find_experiment, parameters_of, track_night
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.pipeline.tracking.night_numbers import night_numbers
from tests.unit.tracking.tracked import settings, written


def track(mlflow, tmp_path, record=None, **changes):
    record, folder = written(tmp_path, record, **changes)
    server = MlflowServer(mlflow.address, backoff_s=0)
    return track_night(server, settings(tmp_path), record, folder), record


def test_a_night_is_a_run_with_its_settings_numbers_and_files(mlflow, tmp_path):
    notices, record = track(mlflow, tmp_path)
    assert notices == []
    (run,) = mlflow.runs
    assert run["info"]["status"] == "FINISHED"
    assert run["tags"]["iak.registry_generation"] == str(record.registry_after)
    assert run["tags"]["mlflow.note.content"].startswith("shop, night of 2026-10-28: ")
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert params == parameters_of(settings(tmp_path))
    assert params["window.days"] == "7"
    values = {key: metric["value"] for key, metric in run["metrics"].items()}
    assert values == night_numbers(record)
    names = {path.split("/artifacts/")[1] for path in mlflow.artifacts}
    files = ("kernel.safetensors", "manifest.json")
    assert names == {"night.json", "page.html"} | {
        f"bundles/{domain.bundle}/{file}" for domain in record.domains for file in files
    }


def test_the_same_night_again_changes_its_run(mlflow, tmp_path):
    _, first = track(mlflow, tmp_path, status="failed", error="no memory", exit_code=1)
    assert mlflow.runs[0]["info"]["status"] == "FAILED"
    _, again = track(mlflow, tmp_path, attempts=2)
    assert first.id == again.id
    (run,) = mlflow.runs
    assert run["info"]["status"] == "FINISHED"
    assert run["metrics"]["night/attempts"]["value"] == 2
    assert len(mlflow.versions) == 1
    assert mlflow.experiments == ["shop"]


def test_a_setting_changed_since_then_keeps_its_first_value(mlflow, tmp_path):
    record, folder = written(tmp_path)
    server = MlflowServer(mlflow.address, backoff_s=0)
    track_night(server, settings(tmp_path), record, folder)
    track_night(server, settings(tmp_path, scratch_every=1), record, folder)
    params = {param["key"]: param["value"] for param in mlflow.runs[0]["data"]["params"]}
    assert params["scratch_every"] == "7"


def test_a_file_that_is_gone_is_a_notice_and_no_version_is_registered(mlflow, tmp_path):
    record, folder = written(tmp_path)
    (folder / "page.html").unlink()
    server = MlflowServer(mlflow.address, backoff_s=0)
    (notice,) = track_night(server, settings(tmp_path), record, folder)
    assert "page.html" in notice
    assert mlflow.versions == []
    assert mlflow.runs[0]["info"]["status"] == "FINISHED"


def test_artefacts_that_the_server_does_not_take_are_a_notice(mlflow, tmp_path):
    mlflow.root = "s3://artefacts"
    (notice,), _ = track(mlflow, tmp_path)
    assert "--serve-artifacts" in notice
    assert mlflow.artifacts == {}


def test_a_deleted_experiment_says_how_to_restore_it(mlflow):
    mlflow.experiments, mlflow.stage = ["shop"], "deleted"
    with pytest.raises(Unreachable, match="mlflow experiments restore -x 1"):
        find_experiment(MlflowServer(mlflow.address), "shop")


def test_long_values_are_cut_and_absent_ones_left_out(tmp_path):
    names = [f"region=r{number}" for number in range(300)]
    parameters = parameters_of(settings(tmp_path, choice={"domains": names}))
    assert len(parameters["choice.domains"]) == 500
    assert parameters["choice.domains"].endswith("…")
    assert "notify.tracking" not in parameters
