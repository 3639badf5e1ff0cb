"""A plan has the days that its base, and the bases that this one continues, were trained on."""

from dataclasses import replace
from datetime import date

import pytest

from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_check import check_nightly
from iak.pipeline.runs.nightly_known_days import base_notices
from iak.pipeline.runs.nightly_plan import plan_night
from tests.unit.runs.platform import NOW, write_platform

LAST = date(2026, 10, 3)


def planned(spec):
    return plan_night(spec, [], asked=LAST, now=NOW)


@pytest.fixture
def spec(tmp_path):
    """A platform whose base was trained on the first day of the window."""
    return write_platform(tmp_path, base_days={"first": "2026-09-20", "last": "2026-10-02"})


def test_the_plan_the_check_and_the_record_say_it(spec):
    (notice,) = planned(spec).base_notices
    assert "1 of the 2 days of ctr, 2026-10-02" in notice
    findings = check_nightly(spec, ask_job_server=lambda _: None)
    assert findings.problems == [], "a notice is no problem"
    assert findings.plan.base_notices == (notice,)
    record = run_night(spec, None, NightRequest(night=LAST, dry_run=True, clock=lambda: NOW))
    assert record.notices == [notice]


def test_days_before_the_window_need_no_notice(tmp_path):
    assert planned(write_platform(tmp_path)).base_notices == ()


def child_of(plan, place, parent):
    """The plan's base as one that was continued on the night's date from a base at a place."""
    window = plan.base.manifest.snapshot.splits["pretrain"]
    days = window.model_copy(update={"first": LAST, "last": LAST})
    snapshot = plan.base.manifest.snapshot.model_copy(update={"splits": {"pretrain": days}})
    changes = {"snapshot": snapshot, "parent": parent, "spec": {"from": str(place)}}
    return replace(plan.base, manifest=plan.base.manifest.model_copy(update=changes))


def test_the_days_of_the_parent_are_known_too(spec):
    plan = planned(spec)
    child = child_of(plan, spec.base, plan.base.manifest.fingerprint)
    (notice,) = base_notices(child, plan.windows, plan.catalog)
    assert "2 of the 2 days of ctr, 2026-10-02 to 2026-10-03" in notice


@pytest.mark.parametrize("place", ["base", "nowhere"])
def test_a_parent_that_is_not_there_any_more_is_said(spec, place, tmp_path):
    plan = planned(spec)
    child = child_of(plan, tmp_path / place, "f" * 64)
    notice, lost = base_notices(child, plan.windows, plan.catalog)
    assert "1 of the 2 days of ctr, 2026-10-03" in notice
    assert f"continues base {'f' * 16}" in lost
    assert str(tmp_path / place) in lost
