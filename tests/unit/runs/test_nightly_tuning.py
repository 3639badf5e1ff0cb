"""What a night asks of `iak finetune`, and that it promotes no kernels of another log."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from iak.pipeline.errors import BadLog, Corrupt
from iak.pipeline.events import silent
from iak.pipeline.runs import nightly_tuning
from iak.pipeline.runs.nightly_plan import plan_night
from iak.pipeline.runs.nightly_tuning import finetune_spec, refuse_changed_log, tune_once
from iak.pipeline.runs.outputs import file_output
from iak.pipeline.runs.record import RECORD
from iak.pipeline.sealed import seal, spelled
from iak.schemas.nightly import NightlySpec
from iak.schemas.record import RunRecord
from iak.schemas.tuning import TuningResult
from tests.builders import draw_rows, partition, write_file
from tests.unit.runs.platform import NOW, kernel, tuning_result, write_platform

LIVE = {"region=ningbo": object()}


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    return write_platform(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def plan(platform):
    return plan_night(platform, [], asked=None, now=NOW)


def with_live(plan, live, base="base"):
    return SimpleNamespace(base_path=base, night=plan.night, catalog=plan.catalog, live=live)


def test_a_first_night_starts_from_no_live_kernel(platform, plan, tmp_path):
    asked = finetune_spec(platform, plan, ["pooled"], tmp_path)
    assert asked.live is None
    assert (asked.base, asked.run_dir) == (plan.base_path, tmp_path)
    assert asked.as_of == plan.night
    assert asked.domains == ("pooled",)


def test_kernels_start_from_what_serves(platform, plan, tmp_path):
    asked = finetune_spec(platform, with_live(plan, LIVE), ["pooled"], tmp_path)
    assert str(asked.live) == f"registry:{platform.registry}@champion"
    assert asked.live_base is None


def test_on_a_refreshed_base_they_may_start_from_the_parent_s(platform, plan, tmp_path):
    parent, refreshed = with_live(plan, LIVE, "parent"), with_live(plan, {})
    asked = finetune_spec(platform, refreshed, ["pooled"], tmp_path, parent=parent)
    assert str(asked.live) == f"registry:{platform.registry}@champion"
    assert str(asked.live_base) == "parent"


def test_settings_of_the_file_win_over_the_defaults(platform, plan, tmp_path):
    written = platform.model_dump(exclude_unset=True) | {"finetune": {"kernel": {"code": 7}}}
    changed = NightlySpec.model_validate(written)
    due = datetime(2026, 10, 4, 5, tzinfo=UTC)
    asked = finetune_spec(changed, plan, ["pooled"], tmp_path, deadline=due)
    assert asked.kernel.code == 7
    assert asked.deadline == due


def finished(run_dir, **changes):
    """Write the record of a finished tuning with one result."""
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.json").write_text("[]")
    record = RunRecord(
        verb="finetune",
        status="finished",
        exit_code=0,
        spec={},
        spec_digest="d",
        started_at=NOW,
        result=tuning_result(kernels=[kernel("pooled", 9)]).as_json() | {"extra": 1},
        outputs={"metrics.json": file_output(run_dir / "metrics.json")},
        **changes,
    )
    document = seal(record.model_dump(mode="json"), by="record_sha256")
    (run_dir / RECORD).write_bytes(spelled(document))
    return run_dir


def never(*_, **__):
    pytest.fail("a finished tuning was run again")


def test_a_tuning_that_is_finished_is_not_run_again(platform, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(nightly_tuning, "tune_night", never)
    spec = finetune_spec(platform, plan, ["pooled"], finished(tmp_path / "tune"))
    record = tune_once(spec, plan.catalog, None, silent, verify_log=never)
    assert [each.domain for each in record.result_as(TuningResult).kernels] == ["pooled"]


def test_a_finished_tuning_whose_results_changed_is_refused(platform, plan, tmp_path):
    run_dir = finished(tmp_path / "tune")
    (run_dir / "metrics.json").write_text("[1]")
    with pytest.raises(Corrupt, match=r"metrics\.json"):
        tune_once(finetune_spec(platform, plan, [], run_dir), plan.catalog, None, silent)


def test_the_log_of_the_plan_is_accepted(platform, plan):
    refuse_changed_log(platform, plan)


def test_kernels_of_a_log_that_changed_are_removed(tmp_path, monkeypatch):
    spec = write_platform(tmp_path)
    plan = plan_night(spec, [], asked=None, now=NOW)

    def tune_night(asked, *_, **__):
        """Tune while somebody rewrites a day."""
        finished(asked.run_dir)
        path = next((tmp_path / "log/events" / partition("ningbo", "2026-10-03")).glob("*.parquet"))
        write_file(path, draw_rows(60, seed=9))
        return SimpleNamespace(record=None)

    monkeypatch.setattr(nightly_tuning, "tune_night", tune_night)
    asked = finetune_spec(spec, plan, ["pooled"], tmp_path / "tune")
    with pytest.raises(BadLog, match="region=ningbo/2026-10-03") as refused:
        tune_once(
            asked, plan.catalog, None, silent, verify_log=lambda: refuse_changed_log(spec, plan)
        )
    assert "Nothing was promoted" in str(refused.value)
    assert not (tmp_path / "tune").exists()
