from datetime import UTC, datetime

import pytest

from iak.schemas.record import RunRecord
from iak.schemas.results import NightResult, PretrainResult, RunResult
from tests.builders import training_run_result
from tests.unit.runs.platform import kernel, tuning_run_result


def record(**changes):
    fields = {
        "verb": "finetune", "status": "finished", "exit_code": 0, "spec": {}, "spec_digest": "d",
        "started_at": datetime(2026, 10, 29, tzinfo=UTC),
    }  # fmt: skip
    return RunRecord.model_validate(fields | changes)


@pytest.mark.parametrize(("written", "code"), [(4, 4), (0, 0), (None, 0)])
def test_a_result_has_the_exit_code_of_its_record(tmp_path, written, code):
    result = RunResult(run_dir=tmp_path, record=record(exit_code=written))
    assert result.exit_code == code


def test_a_pre_training_whose_parent_was_better_has_no_base(tmp_path):
    result = PretrainResult(
        run_dir=tmp_path, record=record(), training=training_run_result(), manifest=None
    )
    assert result.base is None


def test_a_night_has_its_kernels_and_their_folder(tmp_path):
    tuning = tuning_run_result(kernels=[kernel("pooled", 9), kernel("region=a", 5)])
    result = NightResult(run_dir=tmp_path, record=record(), tuning=tuning)
    assert [each.domain for each in result.kernels] == ["pooled", "region=a"]
    assert result.bundles == tmp_path / "bundles"
