"""The clean case without its presets: what the open settings make of 5,385 training rows."""

from pathlib import Path

import pytest

from iak.jobs import pretrain as job
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.runs.record import read_record
from iak.schemas.job import PretrainSpec
from tests.unit.jobs.test_pretrain import here, pytestmark  # noqa: F401 - the same warnings

REPOSITORY = Path(__file__).parents[3]
CASE = REPOSITORY.parent / "shared" / "cases" / "base"


@pytest.mark.skipif(not CASE.is_dir(), reason=f"no case at {CASE}")
def test_base_without_presets_comes_out_ranked_and_calibrated(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalLauncher, "run", here)
    described = (CASE / "shop.toml").read_text().partition("[presets.")[0]
    catalog = tmp_path / "shop.toml"
    catalog.write_text(described)
    spec = PretrainSpec.model_validate(
        {"catalog": catalog, "data_root": str(CASE), "run_dir": tmp_path / "run", "workers": 1}
    )
    assert job.main(spec) == 0
    result = read_record(tmp_path / "run").result
    assert result["steps"] > 150, "three steps, as with one pass of 2,048 rows a step, are too few"
    tasks = {task["task"]: task for task in result["best_tasks"]}
    assert tasks["ctr"]["auc"] > 0.77
    for task in tasks.values():
        noise = 2 / task["positives"] ** 0.5
        assert task["calibration"] == pytest.approx(1.0, abs=max(0.2, noise)), task
